//! What the tests have in common: their sites, and one that small tests share.

use std::sync::OnceLock;

use hookline_tests::kafka::Kafka;
use hookline_tests::postgres::Postgres;
use hookline_tests::process::Program;
pub(crate) use hookline_tests::site::*;
use hookline_tests::wait;
use sandbox::check::Row;

/// One site with ingest and a processor with a PostgreSQL sink, for tests that look at events of their own only.
pub(crate) struct Shared {
    pub(crate) site: Site,
    pub(crate) url: String,
    /// They run as long as they are kept.
    _programs: [Program; 2],
}

pub(crate) fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        let site = Site::new("shared", Kafka::shared(), 2);
        let url = Postgres::shared().create_database();
        let ingest = site.ingest().started();
        let processor = site.instance("only", &Sink::Postgres(url.clone())).program.started();
        Shared { site, url, _programs: [ingest, processor] }
    })
}

impl Shared {
    /// Waits until `number` rows of an entity are there, and returns them in the order of application.
    pub(crate) fn rows_of(&self, connection: &str, entity: &str, number: usize) -> Vec<Row> {
        let what = format!("{number} rows of {connection}/{entity}");
        wait::until(&what, PATIENCE, || {
            let mut rows = rows(&self.url);
            rows.retain(|row| row.connection == connection && row.entity.as_deref() == Some(entity));
            rows.sort_by_key(|row| row.position);
            (rows.len() >= number).then_some(rows)
        })
    }
}
