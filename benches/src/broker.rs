//! The Kafka that is measured on: one node, Kafka's own defaults but for what one node needs, printed.

use std::path::PathBuf;
use std::{env, fs};

use hookline_tests::kafka::Kafka;
use hookline_tests::setup;

/// The event log, where a benchmark has one alone.
pub(crate) const LOG: &str = "hookline.events";

/// Starts Kafka and prints its settings.
pub(crate) fn start() -> Kafka {
    let kafka = Kafka::start();
    let jars = fs::read_dir(setup::kafka_lib()).expect("Kafka's jars").flatten();
    let version = jars
        .map(|jar| jar.file_name().to_string_lossy().into_owned())
        .find_map(|name| Some(name.strip_prefix("kafka-server-common-")?.strip_suffix(".jar")?.to_owned()));
    println!("kafka {} with {}", version.unwrap_or_default(), env::var("_JAVA_OPTIONS").unwrap_or_default());
    let properties = fs::read_to_string(directory().join("server.properties")).expect("server.properties");
    for line in properties.lines().filter(|line| !line.contains('/') && !line.contains("127.0.0.1")) {
        println!("  {line}");
    }
    kafka
}

/// Where its topics' partitions are: `{topic}-{partition}`.
pub(crate) fn data() -> PathBuf {
    directory().join("data")
}

/// The harness gives each server a directory of its own, named for it.
fn directory() -> PathBuf {
    let base = PathBuf::from(env::var_os("HOOKLINE_TEST_TMP").expect("HOOKLINE_TEST_TMP: run benches/run"));
    let entries = fs::read_dir(&base).expect("the scratch directory").flatten();
    let kafka = entries
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kafka-")));
    kafka.expect("Kafka's directory")
}

/// The part of the configuration that says where Kafka is.
pub(crate) fn config(kafka: &Kafka, partitions: u32) -> String {
    config_of(kafka, LOG, partitions)
}

/// The same, with a log that has another name.
pub(crate) fn config_of(kafka: &Kafka, log: &str, partitions: u32) -> String {
    format!(
        "[kafka]\nbootstrap_servers = \"{}\"\n[log]\ntopic = \"{log}\"\npartitions = {partitions}\n\
         replication_factor = 1\nmin_insync_replicas = 1\n\n",
        kafka.bootstrap()
    )
}
