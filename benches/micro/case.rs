//! What a case is: something that can be done over and over, and tells whether it did what it is there for.

/// One case. Figures are of one operation.
pub(crate) struct Case {
    pub(crate) name: String,
    /// Operations in a round.
    pub(crate) operations: u64,
    /// Whether its instructions are counted too.
    pub(crate) is_counted: bool,
    make: Box<dyn Fn() -> Box<dyn Round>>,
}

impl Case {
    /// `make` gets all ready that is not measured.
    pub(crate) fn new<R: Round + 'static>(
        name: impl Into<String>,
        operations: u64,
        make: impl Fn() -> R + 'static,
    ) -> Self {
        Self { name: name.into(), operations, is_counted: true, make: Box::new(move || Box::new(make())) }
    }

    /// It differs from another case by its size alone. That costs time, when the processor's caches are too small, but
    /// hardly an instruction.
    pub(crate) fn only_timed(self, is_so: bool) -> Self {
        Self { is_counted: !is_so, ..self }
    }

    pub(crate) fn round(&self) -> Box<dyn Round> {
        (self.make)()
    }
}

/// A case that is ready. Every round does the same.
pub(crate) trait Round {
    /// Puts back what the last round changed. Not measured.
    fn prepare(&mut self) {}

    /// What is measured.
    fn run(&mut self);

    /// Panics where the last round did not do all of what the case is there for.
    fn check(&mut self);
}
