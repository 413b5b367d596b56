//! Alerts by e-mail: one message to the people who operate, or to the customer whose connection it is.

use lettre::message::header::ContentType;
use lettre::message::{Mailbox, Mailboxes};
use lettre::transport::smtp::authentication::Credentials;
use lettre::{Message, SmtpTransport, Transport as _};
use secrecy::ExposeSecret as _;
use shared::config::{EmailChannelConfig, SmtpTls};

use super::book::{Alert, Kind};
use super::channel::Sent;
use super::words::Words;

/// A way to an SMTP server.
pub(super) struct Email {
    config: EmailChannelConfig,
    transport: SmtpTransport,
    from: Mailbox,
    to: Vec<Mailbox>,
}

impl Email {
    /// Makes no connection.
    ///
    /// # Errors
    /// What is wrong with the configuration; `place` is its key.
    pub(super) fn open(config: &EmailChannelConfig, place: &str) -> Result<Self, String> {
        let address = |text: &String, field: &str| {
            let hint = "is an address such as \"alerts@example.com\" or \"Hookline <alerts@example.com>\"";
            text.parse::<Mailbox>().map_err(|_| format!("{place}.{field} {hint}"))
        };
        let builder = match config.tls {
            SmtpTls::Starttls => SmtpTransport::starttls_relay(&config.host),
            SmtpTls::Tls => SmtpTransport::relay(&config.host),
            SmtpTls::None => Ok(SmtpTransport::builder_dangerous(&config.host)),
        };
        let mut builder = builder.map_err(|error| format!("{place}: TLS cannot be set up: {error}"))?;
        if let Some(port) = config.port {
            builder = builder.port(port);
        }
        if let (Some(user), Some(password)) = (&config.user, &config.password_value) {
            builder =
                builder.credentials(Credentials::new(user.clone(), password.expose_secret().to_owned()));
        }
        Ok(Self {
            transport: builder.timeout(Some(config.timeout.0)).build(),
            from: address(&config.from, "from")?,
            to: config.to.iter().map(|to| address(to, "to")).collect::<Result<_, _>>()?,
            config: config.clone(),
        })
    }

    pub(super) fn send(&self, alert: &Alert, words: &Words) -> Sent {
        let to = match &self.config.to_label {
            None => self.to.clone(),
            Some(label) => match words.label(label).map(str::parse::<Mailbox>) {
                None => return Sent::NoAddress,
                Some(Ok(customer)) => vec![customer],
                // It is not repeated: addresses are the customers'.
                Some(Err(_)) => return Sent::Never(format!("the connection's label {label} is no address")),
            },
        };
        let (subject, text) = self.config.words(alert.kind == Kind::Recovery);
        let message = Message::builder()
            .from(self.from.clone())
            .mailbox(lettre::message::header::To::from(Mailboxes::from_iter(to)))
            .message_id(Some(format!("<{}@{}>", alert.id, self.from.email.domain())))
            .subject(words.fill(subject))
            .header(ContentType::TEXT_PLAIN)
            .body(words.fill(text));
        let message = match message {
            Ok(message) => message,
            Err(error) => return Sent::Never(format!("no message can be made: {error}")),
        };
        match self.transport.send(&message) {
            Ok(_) => Sent::Taken,
            Err(error) => self.failed(&error),
        }
    }

    /// The server's words are not repeated: they may hold addresses.
    fn failed(&self, error: &lettre::transport::smtp::Error) -> Sent {
        let host = &self.config.host;
        match error.status() {
            Some(code) if error.is_permanent() => Sent::Never(format!("{host}: refused with code {code}")),
            Some(code) => Sent::Later(format!("{host}: code {code}"), None),
            None => Sent::Later(format!("{host}: {error}"), None),
        }
    }
}
