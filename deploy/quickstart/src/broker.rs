//! The embedded broker: librdkafka's own, in this process. It keeps nothing on disk.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use shared::config::Config;
use shared::topics;

use crate::config::PIPELINE;

/// One broker, as long as this value lives.
pub(crate) struct Embedded(MockCluster<'static, DefaultProducerContext>);

impl Embedded {
    pub(crate) fn start() -> anyhow::Result<Self> {
        Ok(Self(MockCluster::new(1)?))
    }

    pub(crate) fn bootstrap_servers(&self) -> String {
        self.0.bootstrap_servers()
    }

    /// Creates the topics that the processor would create itself, were there CreateTopics.
    pub(crate) fn create_topics(&self, config: &Config) -> anyhow::Result<()> {
        let mut topics = vec![topics::event_log(config)];
        if let Some(pipeline) = config.pipelines.get(PIPELINE) {
            topics.extend(topics::of_pipeline(config, PIPELINE, pipeline));
        }
        topics.extend(topics::of_polling(config));
        for topic in topics {
            let partitions = i32::try_from(topic.partitions)?;
            self.0.create_topic(&topic.name, partitions, i32::from(topic.replication_factor))?;
        }
        Ok(())
    }
}
