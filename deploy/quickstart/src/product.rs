//! Hookline itself: ingest, the processor and, where something is polled, the poller, each as its own binary starts it, in this process.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use shared::config::Config;
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

use crate::config::PIPELINE;

/// How long the programs may take until they are ready.
const READY_WAIT: Duration = Duration::from_secs(60);

/// The programs.
pub(crate) struct Product {
    /// Where webhooks are received.
    pub(crate) url: String,
    /// Each connection's address, as `ingest urls` prints them.
    pub(crate) addresses: String,
    /// Where the verdicts are.
    pub(crate) metrics_url: String,
    ingest: ingest::Running,
    processor: processor::run::Running,
    poller: Option<ingest::Polling>,
}

/// Lets both programs log to a file, as `HOOKLINE_LOG` says.
pub(crate) fn log_to(path: &Path) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let filter =
        EnvFilter::try_from_env(shared::telemetry::LOG_ENV).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(Arc::new(file));
    let _ = builder.try_init();
    Ok(())
}

/// Starts them, and waits until they are ready.
pub(crate) fn start(runtime: &Runtime, config: &Config) -> anyhow::Result<Product> {
    let pipeline = config.pipelines.get(PIPELINE).context("the pipeline is not in the configuration")?;
    // One process has one recorder of metrics: both programs' admin addresses show it.
    let metrics = shared::telemetry::init_metrics();
    let stop = Arc::new(AtomicBool::new(false));
    let (ingest, processor, poller) = runtime.block_on(async {
        let ingest = ingest::serve(config, metrics.clone()).await.context("ingest does not start")?;
        let processor = processor::run::start(config, PIPELINE, pipeline, metrics.clone(), stop)
            .await
            .context("the processor does not start")?;
        let poller = if config.sources.values().any(|source| source.poll.is_some()) {
            Some(ingest::poll(config, metrics).await.context("the poller does not start")?)
        } else {
            None
        };
        anyhow::Ok((ingest, processor, poller))
    })?;
    let url = format!("http://{}", ingest.webhook_address());
    let addresses = ingest::urls(config, &url)?.iter().map(|address| format!("{address}\n")).collect();
    let product = Product {
        url,
        addresses,
        metrics_url: format!("http://{}/metrics", processor.admin),
        ingest,
        processor,
        poller,
    };
    let begin = Instant::now();
    while !product.is_ready() {
        if begin.elapsed() > READY_WAIT {
            let problems = product.processor.health.problems().join("; ");
            anyhow::bail!("not ready after {READY_WAIT:?}: {problems}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(product)
}

impl Product {
    fn is_ready(&self) -> bool {
        let polls = self.poller.as_ref().is_none_or(ingest::Polling::is_ready);
        polls && self.ingest.is_ready() && self.processor.health.problems().is_empty()
    }

    /// Stops them as SIGTERM does: accepted requests finish, then the last checkpoint.
    pub(crate) fn stop(self, runtime: &Runtime) {
        runtime.block_on(async {
            if let Some(poller) = self.poller {
                poller.stop().await;
            }
            self.ingest.stop().await;
        });
        let _ = self.processor.stop();
    }
}
