//! A real Kafka: one broker that is its own controller, or several, on free ports, their data in scratch directories.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tempfile::TempDir;

use crate::child::{self, Child};
use crate::{ports, setup, wait};

/// From the start of the process to a broker that answers. It takes 6 s on an idle machine.
const START_TIME_LIMIT: Duration = Duration::from_secs(90);
const STOP_TIME_LIMIT: Duration = Duration::from_secs(60);
const CLUSTER_ID: &str = "hooklineTestsCluster00";

/// One broker. Dropped, it is killed and its data removed.
#[derive(Debug)]
pub struct Kafka {
    process: Option<Child>,
    scratch: TempDir,
    node: Node,
    /// What clients call `bootstrap.servers`: all brokers of the cluster.
    bootstrap: String,
    secured: Option<Secured>,
}

/// A broker's part in its cluster.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// From 1 on.
    id: usize,
    port: u16,
    controller_port: u16,
    /// Of a listener that clients reach by a proxy, and of that proxy.
    proxied: Option<(u16, u16)>,
}

/// What a cluster of three differs in from one broker.
const THREE: &[(&str, &str)] = &[
    ("offsets.topic.replication.factor", "3"),
    ("transaction.state.log.replication.factor", "3"),
    ("transaction.state.log.min.isr", "2"),
    ("share.coordinator.state.topic.replication.factor", "3"),
    ("share.coordinator.state.topic.min.isr", "2"),
];

/// A second listener of a broker, with TLS and SASL (PLAIN and SCRAM).
#[derive(Clone, Debug)]
pub struct Secured {
    port: u16,
    /// The certificate, which is its own authority, in PEM.
    pub certificate: String,
}

impl Secured {
    /// The one user.
    pub const USER: &str = "hookline";
    /// The user's password.
    pub const PASSWORD: &str = "open-sesame-7f3c";

    /// What clients call `bootstrap.servers`.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn make(scratch: &Path) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
        let certificate = made.cert.pem();
        let store = made.signing_key.serialize_pem() + &certificate;
        fs::write(scratch.join("secured.pem"), store).expect("secured.pem");
        Self { port: ports::free(), certificate }
    }

    fn settings(&self, scratch: &Path) -> Vec<(String, String)> {
        let key = |name: &str| format!("listener.name.secured.{name}");
        let (user, password) = (Self::USER, Self::PASSWORD);
        let modules = "org.apache.kafka.common.security";
        let scram = format!("{modules}.scram.ScramLoginModule required;");
        let plain = format!("{modules}.plain.PlainLoginModule required user_{user}=\"{password}\";");
        vec![
            (key("ssl.keystore.type"), "PEM".to_owned()),
            (key("ssl.keystore.location"), scratch.join("secured.pem").display().to_string()),
            (key("sasl.enabled.mechanisms"), "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512".to_owned()),
            (key("plain.sasl.jaas.config"), plain),
            (key("scram-sha-256.sasl.jaas.config"), scram.clone()),
            (key("scram-sha-512.sasl.jaas.config"), scram),
        ]
    }
}

impl Kafka {
    /// Starts a broker and waits until it answers.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// As [`Kafka::start`], with broker settings that replace or add to the usual ones.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_in(setup::scratch("kafka"), None, settings)
    }

    /// As [`Kafka::start`], with a second listener.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start_secured() -> Self {
        let scratch = setup::scratch("kafka");
        let secured = Secured::make(scratch.path());
        let settings = secured.settings(scratch.path());
        let settings: Vec<(&str, &str)> = settings.iter().map(|(k, v)| (&**k, &**v)).collect();
        Self::start_in(scratch, Some(secured), &settings)
    }

    /// Starts three brokers, each a controller too. Internal topics have three copies, of which a write needs two.
    ///
    /// # Panics
    /// When one does not come up.
    #[must_use]
    pub fn start_three() -> [Self; 3] {
        let nodes =
            [1, 2, 3].map(|id| Node { proxied: Some((ports::free(), ports::free())), ..Node::new(id) });
        let mut brokers = nodes.map(|node| Self::make(node, &nodes, setup::scratch("kafka"), None, THREE));
        for broker in &mut brokers {
            broker.spawn();
        }
        for broker in &mut brokers {
            broker.wait_ready();
        }
        brokers
    }

    fn start_in(scratch: TempDir, secured: Option<Secured>, settings: &[(&str, &str)]) -> Self {
        let node = Node::new(1);
        let mut kafka = Self::make(node, &[node], scratch, secured, settings);
        kafka.restart();
        kafka
    }

    fn make(
        node: Node,
        nodes: &[Node],
        scratch: TempDir,
        secured: Option<Secured>,
        settings: &[(&str, &str)],
    ) -> Self {
        let properties = properties(scratch.path(), node, nodes, secured.as_ref(), settings);
        fs::write(scratch.path().join("server.properties"), properties).expect("server.properties");
        format_storage(scratch.path(), secured.is_some());
        let bootstrap: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        Self { process: None, scratch, node, bootstrap: bootstrap.join(","), secured }
    }

    /// The ports of a listener of [`Kafka::start_three`] that clients are to reach by a proxy, and of that proxy.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn proxied(&self) -> (u16, u16) {
        self.node.proxied.expect("a listener for a proxy")
    }

    /// The second listener of [`Kafka::start_secured`].
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn secured(&self) -> &Secured {
        self.secured.as_ref().expect("a secured listener")
    }

    /// The broker that all tests of one binary share, started when first asked for. Tests that stop their
    /// broker start their own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// What clients call `bootstrap.servers`.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.bootstrap.clone()
    }

    /// Starts the stopped broker again on its data and port, and waits until it answers.
    ///
    /// # Panics
    /// When it runs already, or does not come up.
    pub fn restart(&mut self) {
        self.spawn();
        self.wait_ready();
    }

    /// Starts the stopped broker again on its data and port.
    ///
    /// # Panics
    /// When it runs already.
    pub fn spawn(&mut self) {
        assert!(self.process.is_none(), "Kafka runs already");
        let mut command = java("kafka.Kafka");
        command.arg(self.scratch.path().join("server.properties"));
        let log = self.scratch.path().join("kafka.log");
        self.process = Some(Child::spawn("Kafka", command, &log));
    }

    /// Waits until it answers, and every partition has its leader.
    ///
    /// # Panics
    /// When it does not run, or does not come up.
    pub fn wait_ready(&mut self) {
        let port = self.node.port;
        let process = self.process.as_mut().expect("Kafka runs");
        let answers = wait::within(START_TIME_LIMIT, || {
            let ended = process.ended();
            assert!(ended.is_none(), "Kafka ended while it started: {ended:?}");
            is_ready(port).then_some(())
        });
        assert!(answers.is_some(), "Kafka does not answer after {} s", START_TIME_LIMIT.as_secs());
    }

    /// An orderly stop.
    ///
    /// # Panics
    /// When it does not run or does not end.
    pub fn stop(&mut self) {
        self.process.take().expect("Kafka runs").terminate(STOP_TIME_LIMIT);
    }

    /// `kill -9`.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        self.process.take().expect("Kafka runs").kill();
    }

    /// Stops its execution: connections stay open, nothing is answered.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pause(&mut self) {
        self.process.as_mut().expect("Kafka runs").pause();
    }

    /// Ends a pause.
    ///
    /// # Panics
    /// When it does not run.
    pub fn resume(&mut self) {
        self.process.as_mut().expect("Kafka runs").resume();
    }

    /// The broker's log.
    #[must_use]
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.scratch.path().join("kafka.log")).unwrap_or_default()
    }

    /// Creates a topic with `partitions` partitions and topic settings.
    ///
    /// # Panics
    /// When the broker refuses.
    pub fn create_topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> =
            client_config(&self.bootstrap()).create().expect("an admin client");
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        let results = block_on(admin.create_topics(&[topic], &options)).expect("an answer from Kafka");
        for result in results {
            result.unwrap_or_else(|(name, code)| panic!("topic {name} is not created: {code}"));
        }
    }
}

/// A client configuration for tests, with the broker's address.
#[must_use]
pub fn client_config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    config.set("client.id", "hookline-tests");
    config
}

impl Node {
    fn new(id: usize) -> Self {
        Self { id, port: ports::free(), controller_port: ports::free(), proxied: None }
    }
}

fn properties(
    scratch: &Path,
    node: Node,
    nodes: &[Node],
    secured: Option<&Secured>,
    settings: &[(&str, &str)],
) -> String {
    let Node { id, port, controller_port, proxied } = node;
    let id = id.to_string();
    let data = scratch.join("data").display().to_string();
    let mut advertised = format!("PLAINTEXT://127.0.0.1:{port}");
    if let Some(Secured { port, .. }) = secured {
        advertised += &format!(",SECURED://127.0.0.1:{port}");
    }
    let (mut listeners, mut advertised) = (advertised.clone(), advertised);
    if let Some((listens, proxy)) = proxied {
        listeners += &format!(",PROXIED://127.0.0.1:{listens}");
        advertised += &format!(",PROXIED://127.0.0.1:{proxy}");
    }
    let listeners = format!("{listeners},CONTROLLER://127.0.0.1:{controller_port}");
    let voter = |node: &Node| format!("{}@127.0.0.1:{}", node.id, node.controller_port);
    let voters = nodes.iter().map(voter).collect::<Vec<_>>().join(",");
    let usual = [
        ("process.roles", "broker,controller"),
        ("node.id", &id),
        ("controller.quorum.voters", &voters),
        ("controller.listener.names", "CONTROLLER"),
        ("listeners", &listeners),
        (
            "listener.security.protocol.map",
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT,SECURED:SASL_SSL",
        ),
        ("advertised.listeners", &advertised),
        ("log.dirs", &data),
        // As in production, where a missing topic is an error.
        ("auto.create.topics.enable", "false"),
        ("num.partitions", "1"),
        // There is one broker, unless the settings say otherwise.
        ("offsets.topic.replication.factor", "1"),
        ("transaction.state.log.replication.factor", "1"),
        ("transaction.state.log.min.isr", "1"),
        ("share.coordinator.state.topic.replication.factor", "1"),
        ("share.coordinator.state.topic.min.isr", "1"),
        // Quick: few internal partitions, no wait for more members, time-outs of transactions seen at once,
        // a killed broker soon taken back.
        ("offsets.topic.num.partitions", "4"),
        ("transaction.state.log.num.partitions", "4"),
        ("group.initial.rebalance.delay.ms", "0"),
        ("transaction.abort.timed.out.transaction.cleanup.interval.ms", "1000"),
        ("broker.heartbeat.interval.ms", "500"),
        ("broker.session.timeout.ms", "3000"),
        // Members of tests may time out sooner than the broker's usual 6 s.
        ("group.min.session.timeout.ms", "1000"),
    ];
    let mut lines: Vec<String> = usual
        .iter()
        .filter(|(key, _)| !settings.iter().any(|(k, _)| k == key))
        .chain(settings)
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    lines.push(String::new());
    lines.join("\n")
}

fn format_storage(scratch: &Path, with_user: bool) {
    let mut format = java("kafka.tools.StorageTool");
    format.args(["format", "--cluster-id", CLUSTER_ID, "--config"]).arg(scratch.join("server.properties"));
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"].iter().filter(|_| with_user) {
        let (user, password) = (Secured::USER, Secured::PASSWORD);
        format.args(["--add-scram", &format!("{mechanism}=[name={user},password={password}]")]);
    }
    let output = format.output().expect("java (tests/run installs it)");
    assert!(
        output.status.success(),
        "Kafka's storage cannot be formatted: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn java(class: &str) -> std::process::Command {
    let mut command = child::command("java");
    command
        .args(["-Xmx512m", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"])
        .arg(setup::kafka_lib().join("*"))
        .arg(format!(
            "-Dlog4j2.configurationFile={}",
            setup::package_file("kafka/log4j2.properties").display()
        ))
        .arg(class);
    command
}

/// The broker answers, and every partition that it knows of has its leader.
fn is_ready(port: u16) -> bool {
    let Ok(client) = client_config(&format!("127.0.0.1:{port}")).create::<BaseConsumer>() else {
        return false;
    };
    client.fetch_metadata(None, Duration::from_secs(1)).is_ok_and(|metadata| {
        !metadata.brokers().is_empty()
            && metadata
                .topics()
                .iter()
                .flat_map(rdkafka::metadata::MetadataTopic::partitions)
                .all(|partition| partition.leader() >= 0)
    })
}

/// Runs one of rdkafka's futures, which need no runtime: its own thread wakes them.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake, Waker};
    use std::thread::{self, Thread};

    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
