//! Receivers of webhooks, running: `ingest serve`, those of `benches/peers/go`, `benches/peers/node` and
//! `axum_receiver.rs`, and the no-op, which is the limit of what any of them can be.

use std::env;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::serve::ListenerExt as _;
use clap::{Args, ValueEnum};
use hookline_tests::child::{self, Child};
use hookline_tests::kafka::Kafka;
use hookline_tests::ports;
use hookline_tests::process::Program;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use crate::usage::Usage;
use crate::webhook::SECRET;

const START_TIME_LIMIT: Duration = Duration::from_secs(60);
const STOP_TIME_LIMIT: Duration = Duration::from_secs(60);
/// One for each core of the machine whose figures are in the README.
const NODE_WORKERS: u32 = 2;

/// What ingest is measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// net/http and franz-go.
    Go,
    /// fastify and kafkajs.
    Node,
    /// axum and rdkafka's `FutureProducer`, in Rust.
    Axum,
}

/// A running receiver.
pub(crate) struct Receiver {
    pub(crate) name: &'static str,
    pub(crate) listen: SocketAddr,
    /// Where it appends what it receives; the no-op does not.
    pub(crate) topic: Option<String>,
    process: Process,
}

enum Process {
    Hookline(Program),
    Other(Child),
}

impl Receiver {
    /// The started `ingest serve`.
    pub(crate) fn ingest(program: Program, listen: SocketAddr, topic: &str) -> Self {
        Self { name: "ingest", listen, topic: Some(topic.to_owned()), process: Process::Hookline(program) }
    }

    /// Starts a peer with a topic of its own.
    pub(crate) fn peer(
        peer: Peer,
        kafka: &Kafka,
        partitions: u32,
        scratch: &TempDir,
    ) -> anyhow::Result<Self> {
        let (name, topic) = match peer {
            Peer::Go => ("go", "peer.go"),
            Peer::Node => ("node", "peer.node"),
            Peer::Axum => ("axum", "peer.axum"),
        };
        kafka.create_topic(topic, i32::try_from(partitions)?, &[]);
        let listen = ports::free_address();
        let mut command;
        match peer {
            Peer::Go => {
                command = child::command(super::built(name).join("peer"));
                command.args(["-listen", &listen.to_string()]);
                command.args(["-bootstrap", &kafka.bootstrap(), "-topic", topic]);
            }
            Peer::Node => {
                command = child::command("node");
                command.arg(super::built(name).join("peer.js")).env("NODE_ENV", "production");
                command.env("PEER_LISTEN", listen.to_string()).env("PEER_BOOTSTRAP", kafka.bootstrap());
                command.env("PEER_TOPIC", topic).env("PEER_WORKERS", NODE_WORKERS.to_string());
            }
            Peer::Axum => {
                command = child::command(env::current_exe().context("this program")?);
                command.args(["axum-receiver", "--listen", &listen.to_string()]);
                command.args(["--bootstrap", &kafka.bootstrap(), "--topic", topic]);
            }
        }
        command.env("PEER_SECRET", SECRET);
        Ok(Self::start(name, listen, Some(topic.to_owned()), command, scratch.path()))
    }

    /// Starts this program once more, as a server that does nothing.
    pub(crate) fn no_op(scratch: &TempDir) -> anyhow::Result<Self> {
        let listen = ports::free_address();
        let mut command = child::command(env::current_exe().context("this program")?);
        command.args(["no-op", "--listen", &listen.to_string()]);
        Ok(Self::start("no-op", listen, None, command, scratch.path()))
    }

    fn start(
        name: &'static str,
        listen: SocketAddr,
        topic: Option<String>,
        command: Command,
        scratch: &Path,
    ) -> Self {
        let mut child = Child::spawn(name, command, &scratch.join(format!("{name}.log")));
        child.wait_listens(&[listen.port()], START_TIME_LIMIT);
        Self { name, listen, topic, process: Process::Other(child) }
    }

    /// What it and its children have used so far.
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        let pid = match &self.process {
            Process::Hookline(program) => program.id(),
            Process::Other(child) => child.id(),
        };
        Usage::of_family(pid).with_context(|| format!("{} has ended", self.name))
    }

    /// SIGTERM, and its orderly end.
    pub(crate) fn end(self) -> anyhow::Result<()> {
        let status = match self.process {
            Process::Hookline(mut program) => program.terminate(),
            Process::Other(mut child) => child.terminate(STOP_TIME_LIMIT),
        };
        ensure!(status.success(), "{} did not stop in order: {status}", self.name);
        Ok(())
    }
}

/// Options of the no-op.
#[derive(Args)]
pub(crate) struct NoOp {
    /// Where it listens.
    #[arg(long)]
    listen: SocketAddr,
}

/// Reads each request's body and answers 200, until SIGTERM: HTTP alone, by the libraries that ingest has it from.
pub(crate) fn no_op(options: &NoOp) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(options.listen).await?;
        let listener = listener.tap_io(|stream| {
            // As ingest does. A connection that is gone already is none to serve.
            let _ = stream.set_nodelay(true);
        });
        let router = Router::new().fallback(|_body: Bytes| async { StatusCode::OK });
        let mut ends = signal(SignalKind::terminate())?;
        tokio::select! {
            served = axum::serve(listener, router) => served?,
            _ = ends.recv() => {}
        }
        Ok(())
    })
}
