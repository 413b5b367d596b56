//! What is broken: three brokers, a PostgreSQL, an ingest, up to three instances of a processor, and the load.

use std::time::{Duration, Instant};

use hookline_tests::kafka::Kafka;
use hookline_tests::load::Load;
use hookline_tests::postgres::{Postgres, query};
use hookline_tests::process::Program;
use hookline_tests::proxy::Proxy;
use hookline_tests::site::{Instance, PATIENCE, Sink, Site, row_count};
use hookline_tests::wait;
use sandbox::rng::Rng;

/// The pipeline's name, and the log's.
pub(crate) const NAME: &str = "faults";
pub(crate) const PARTITIONS: u32 = 6;
/// Small, so that checkpoints and snapshots come often, also when much was seen: these come when the journal has
/// grown by twice the state. Ids are spilled often, too.
const OFTEN: &str = r#"checkpoint = { interval = "50ms", snapshot_after = "32KiB" }
fold = { window = "1min", ids_in_memory_max = 100 }"#;
const INSTANCES: [&str; 3] = ["one", "two", "three"];
/// How much must go all the way before the next fault comes.
const SETTLED: usize = 30;
/// After so long it is shown what the processors had to say.
const SLOW: Duration = Duration::from_secs(30);
/// So many lines of each.
const LINES_MAX: usize = 20;

/// All of it.
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) brokers: [Kafka; 3],
    /// The network between the programs and each of them.
    pub(crate) network: [Proxy; 3],
    pub(crate) postgres: Postgres,
    pub(crate) site: Site,
    pub(crate) ingest: Program,
    pub(crate) instances: Vec<Instance>,
    pub(crate) load: Load,
    /// The connection string of the sink.
    pub(crate) url: String,
    /// Ids of events that the sink refused for good.
    pub(crate) refused: Vec<String>,
    /// By how much the fold's version of the programs is higher than it is.
    pub(crate) later_fold: u32,
}

impl World {
    /// Starts the servers, two instances and the load.
    pub(crate) fn start(seed: u64) -> Self {
        let brokers = Kafka::start_three();
        let network = brokers.each_ref().map(|broker| {
            let (listens, proxy) = broker.proxied();
            Proxy::start(proxy, listens)
        });
        let proxies: Vec<String> =
            brokers.iter().map(|broker| format!("127.0.0.1:{}", broker.proxied().1)).collect();
        let postgres = Postgres::start();
        let url = postgres.create_database();
        let sink = Sink::Postgres(url.clone());
        let site = Site::new(NAME, &brokers[0], PARTITIONS).replication(3, 2).gap_wait(PATIENCE);
        let site = site.kafka(format!("bootstrap_servers = \"{}\"", proxies.join(",")));
        let ingest = site.ingest().started();
        let mut instances: Vec<Instance> =
            INSTANCES.iter().map(|name| site.instance_with(NAME, name, &sink, OFTEN)).collect();
        for instance in &mut instances[..2] {
            instance.program.spawn();
        }
        let load = Load::start(&site);
        let mut world = Self {
            rng: Rng::new(seed ^ 1),
            brokers,
            network,
            postgres,
            site,
            ingest,
            instances,
            load,
            url,
            refused: Vec::new(),
            later_fold: 0,
        };
        world.settle();
        world
    }

    /// Waits until all that runs is ready, and new webhooks go all the way. Nothing may have been applied twice.
    pub(crate) fn settle(&mut self) {
        let started = Instant::now();
        self.come_to_rest();
        if started.elapsed() > SLOW {
            println!(
                "         settled after {:.0} s; in that time the processors said:",
                started.elapsed().as_secs_f64()
            );
            for (name, instance) in INSTANCES.iter().zip(&self.instances) {
                let log = instance.program.log_text();
                let told = log.lines().filter(|line| !line.contains(" DEBUG ")).rev().take(LINES_MAX);
                let told: Vec<&str> = told.collect();
                for line in told.iter().rev() {
                    println!("           {name}: {line}");
                }
            }
        }
    }

    fn come_to_rest(&mut self) {
        self.ingest.wait_ready();
        for instance in self.instances.iter_mut().filter(|instance| instance.program.is_running()) {
            instance.program.wait_ready();
        }
        self.load.wait_accepted(SETTLED);
        self.wait_applied(SETTLED);
        let twice = query(
            &self.url,
            "SELECT source, connection, event_id FROM hookline_events GROUP BY 1, 2, 3 HAVING count(*) > 1",
        );
        assert!(twice.is_empty(), "applied twice: {twice:?}");
    }

    /// Waits until so many webhooks more are applied.
    pub(crate) fn wait_applied(&self, more: usize) {
        let goal = row_count(&self.url) + more;
        wait::until("webhooks applied", PATIENCE, || (row_count(&self.url) >= goal).then_some(()));
    }

    /// Waits until `/readyz` of some running instance says this.
    pub(crate) fn wait_said(&self, text: &str) {
        let says = |n: usize| self.instances[n].program.readyz().is_some_and(|(_, said)| said.contains(text));
        let what = format!("“{text}” from a processor");
        wait::until(&what, PATIENCE, || self.all_running().into_iter().any(says).then_some(()));
    }

    /// A running instance.
    pub(crate) fn running(&mut self) -> usize {
        let running = self.all_running();
        *self.rng.pick(&running)
    }

    /// All running instances.
    pub(crate) fn all_running(&self) -> Vec<usize> {
        (0..self.instances.len()).filter(|n| self.instances[*n].program.is_running()).collect()
    }

    /// A broker.
    pub(crate) fn broker(&mut self) -> usize {
        self.rng.below(self.brokers.len())
    }

    /// From one to `max`.
    pub(crate) fn times(&mut self, max: usize) -> usize {
        1 + self.rng.below(max)
    }

    /// Lets time pass under load.
    pub(crate) fn pass(&self, time: Duration) {
        std::thread::sleep(time);
    }
}
