//! Reaching MongoDB: the connection string, TLS, what a write waits for, the collections' indexes.
//!
//! Never logs or repeats the connection string, which holds a password.

use std::env;
use std::fmt;
use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{
    Acknowledgment, ClientOptions, ReadConcern, ReadPreference, SelectionCriteria, Tls, WriteConcern,
};
use mongodb::{Client, Collection, Database, IndexModel};
use secrecy::ExposeSecret as _;
use shared::config::DatabaseSinkConfig;
use tokio::time::timeout;

use super::classify::is_duplicate;
use super::tables;
use crate::sink::mapping::table::{self, Table};
use crate::sink::{Context, SinkError, rows};

pub(super) const EVENTS: &str = "hookline_events";
pub(super) const ENTITIES: &str = "hookline_entities";
const FENCE: &str = "hookline_fence";
const SCHEMA: &str = "hookline_schema";

/// For a connection, and for a server that takes writes to be found.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For the farewell.
const END_TIMEOUT: Duration = Duration::from_millis(500);
/// What the client waits longer than the server may work, so that the server's own message arrives.
const ANSWER_GRACE: Duration = Duration::from_secs(5);
/// A lane says one thing at a time.
const CONNECTIONS_MAX: u32 = 2;

/// The version of the collections' indexes that this program makes and knows.
const VERSION: i64 = 1;

/// Which deployment, and how.
pub(super) struct Server {
    options: ClientOptions,
    database: String,
    statement_timeout: Duration,
    pipeline: String,
    /// The user's own.
    pub(super) tables: Vec<Table>,
}

/// A client with its collections.
pub(super) struct Session {
    client: Client,
    pub(super) database: Database,
    pub(super) events: Collection<Document>,
    pub(super) entities: Collection<Document>,
    pub(super) fence: Collection<Document>,
}

impl Session {
    /// Closes the connections.
    pub(super) async fn end(self) {
        // Out of time, they are closed all the same.
        let _ = timeout(END_TIMEOUT, self.client.shutdown().immediate(true)).await;
    }
}

impl Server {
    pub(super) async fn new(config: &DatabaseSinkConfig, context: &Context) -> Result<Self, SinkError> {
        let url = config.url_value.as_ref().map_or("", |url| url.expose_secret());
        let statement_timeout = config.statement_timeout.0.max(Duration::from_secs(1));
        let mut options = parse(url).await?;
        let database = options.default_database.clone().ok_or_else(unreadable)?;
        if let Some(Tls::Enabled(tls)) = &mut options.tls {
            if tls.allow_invalid_certificates == Some(true) {
                return Err(SinkError::Halt(
                    "sink.mongodb.url allows invalid certificates, which lets anybody be the server: leave that \
                     out, and let tlsCAFile or SSL_CERT_FILE name the file with the CA certificate to trust"
                        .to_owned(),
                ));
            }
            if tls.ca_file_path.is_none() {
                tls.ca_file_path = env::var_os("SSL_CERT_FILE").map(Into::into);
            }
        }
        options.app_name.get_or_insert_with(|| format!("hookline {}", context.pipeline));
        options.connect_timeout = Some(CONNECT_TIMEOUT.min(statement_timeout));
        options.server_selection_timeout = Some(CONNECT_TIMEOUT.min(statement_timeout));
        options.max_pool_size = Some(CONNECTIONS_MAX);
        // Whatever the URL says: what is reported as applied is on disk on most of the members, and stays.
        options.write_concern = Some(
            WriteConcern::builder()
                .w(Acknowledgment::Majority)
                .journal(true)
                .w_timeout(statement_timeout)
                .build(),
        );
        options.read_concern = Some(ReadConcern::majority());
        options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        options.retry_writes = Some(true);
        let (pipeline, tables) = (context.pipeline.clone(), table::all(&context.tables));
        Ok(Self { options, database, statement_timeout, pipeline, tables })
    }

    /// The pipeline's name, by which its tables stand in the configuration.
    pub(super) fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// For one call: commands for events, entities and fence.
    pub(super) fn call_limit(&self) -> Duration {
        self.statement_timeout.saturating_mul(2).saturating_add(ANSWER_GRACE)
    }

    /// For a command that the client does not know.
    pub(super) fn write_concern(&self) -> Document {
        let ms = i64::try_from(self.statement_timeout.as_millis()).unwrap_or(i64::MAX);
        doc! { "w": "majority", "j": true, "wtimeout": ms }
    }

    /// Makes a client, and the indexes where they are missing.
    pub(super) async fn connect(&self) -> Result<Session, SinkError> {
        let client = Client::with_options(self.options.clone()).map_err(|e| self.failed(&e))?;
        let database = client.database(&self.database);
        let session = Session {
            events: database.collection(EVENTS),
            entities: database.collection(ENTITIES),
            fence: database.collection(FENCE),
            client,
            database,
        };
        let prepared = match self.migrate(&session).await {
            Ok(()) => tables::check(&session, self).await,
            Err(error) => Err(error),
        };
        match prepared {
            Ok(()) => Ok(session),
            Err(error) => {
                session.end().await;
                Err(rows::not_by_data(error))
            }
        }
    }

    /// Collections come into being with their first document; only the indexes are made.
    async fn migrate(&self, session: &Session) -> Result<(), SinkError> {
        let failed = |e: Error| self.failed(&e);
        let versions: Collection<Document> = session.database.collection(SCHEMA);
        let last = versions.find_one(doc! {}).sort(doc! { "_id": -1 }).await.map_err(failed)?;
        let found = last.map_or(Ok(0), |last| last.get_i64("_id").map_err(|_| self.other_collections()))?;
        if found > VERSION {
            return Err(rows::too_new(&self.to_string(), found, VERSION));
        }
        if found == VERSION {
            return Ok(());
        }
        let index = |keys: Document| IndexModel::builder().keys(keys).build();
        let indexes = [
            index(doc! { "source": 1, "connection": 1, "event_id": 1 }),
            index(doc! { "source": 1, "connection": 1, "entity": 1, "_id": 1 }),
        ];
        session.events.create_indexes(indexes).await.map_err(failed)?;
        let by_name = index(doc! { "source": 1, "connection": 1, "entity": 1 });
        session.entities.create_index(by_name).await.map_err(failed)?;
        let note = doc! { "_id": VERSION, "installed_at": mongodb::bson::DateTime::now() };
        let noted = versions.insert_one(note).await;
        noted.map(|_| ()).or_else(|e| if is_duplicate(&e) { Ok(()) } else { Err(failed(e)) })
    }
}

/// The deployment as errors name it: hosts and database, no user and no password.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MongoDB")?;
        for (n, host) in self.options.hosts.iter().enumerate() {
            write!(f, "{}{host}", if n == 0 { " at " } else { ", " })?;
        }
        write!(f, ", database {}", self.database)
    }
}

/// Reads the connection string. What is wrong with it is not repeated: that may be part of the password.
async fn parse(url: &str) -> Result<ClientOptions, SinkError> {
    let parsed = timeout(CONNECT_TIMEOUT, ClientOptions::parse(url)).await;
    let late = |_| SinkError::Retry("the name in sink.mongodb.url was not resolved in time".to_owned());
    parsed.map_err(late)?.map_err(|error| {
        if matches!(&*error.kind, ErrorKind::DnsResolve { .. }) {
            SinkError::Retry("the name in sink.mongodb.url (mongodb+srv) cannot be resolved".to_owned())
        } else {
            unreadable()
        }
    })
}

fn unreadable() -> SinkError {
    SinkError::Halt(
        "the connection string of sink.mongodb.url cannot be read: it has the form \
         mongodb://user:password@host:port/database?…, or mongodb+srv:// without ports; the database must be \
         there, and special characters in user and password percent-encoded (\"@\" is %40)"
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> Result<Server, SinkError> {
        let config = DatabaseSinkConfig {
            url: toml::Spanned::new(0..0, shared::secret::SecretRef::Env("U".to_owned())),
            url_value: Some(url.into()),
            statement_timeout: shared::units::Span::secs(1),
            connections: None,
        };
        let context = Context { pipeline: "p".into(), ..Context::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Server::new(&config, &context))
    }

    #[test]
    fn a_connection_string_that_cannot_be_read_is_not_repeated() {
        let urls = [
            "mongodb://u:hunter2@h:notaport/db",
            "mongodb://u:hunter2@h/db?hunter2=1",
            "mongodb://u:hunter2@h",
            "postgres://u:hunter2@h/db",
            "hunter2",
        ];
        for url in urls {
            let message = server(url).map(|_| ()).unwrap_err().to_string();
            assert!(message.contains("mongodb://") && !message.contains("hunter2"), "{url}: {message}");
        }
    }

    #[test]
    fn a_url_cannot_lower_what_a_write_waits_for() {
        let server = server("mongodb://h/db?w=0&journal=false&retryWrites=false&readPreference=secondary");
        let options = server.unwrap().options;
        let concern = options.write_concern.unwrap();
        assert_eq!((concern.w, concern.journal), (Some(Acknowledgment::Majority), Some(true)));
        assert_eq!(options.retry_writes, Some(true));
    }

    #[test]
    fn a_url_cannot_let_any_certificate_pass() {
        let error =
            server("mongodb://h/db?tls=true&tlsAllowInvalidCertificates=true").map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("anybody"));
    }

    #[test]
    fn a_deployments_name_in_errors_has_no_password() {
        let server = server("mongodb://user1:hunter2@db1,db2:27018/shop").unwrap();
        assert_eq!(server.to_string(), "MongoDB at db1:27017, db2:27018, database shop");
    }
}
