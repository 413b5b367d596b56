//! Signs webhooks as their senders do. Written from the senders' documents, not from Hookline's verifier.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// How a delivery is signed, at the moment when it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signer {
    /// HMAC-SHA256 in hex over `{timestamp}.{body}`, with the timestamp in a header of its own.
    Makini {
        /// The connection's secret, or another in its place.
        secret: &'static str,
        /// How far the timestamp lies back, in seconds.
        age_s: i64,
    },
    /// HMAC-SHA256 in hex over the body.
    Github {
        /// The source's secret, or another in its place.
        secret: &'static str,
    },
    /// A signature that belongs to another body: this one was changed on the way.
    Altered {
        /// How the first body was signed.
        signer: Box<Signer>,
        /// The first body.
        signed: Vec<u8>,
    },
    /// Not at all.
    Unsigned,
}

impl Signer {
    /// The headers that carry the signature. `now_s` is the Unix time.
    #[must_use]
    pub fn headers(&self, body: &[u8], now_s: i64) -> Vec<(&'static str, String)> {
        match self {
            Self::Makini { secret, age_s } => {
                let timestamp = (now_s - age_s).to_string();
                let signature = hmac_sha256_hex(secret, &[timestamp.as_bytes(), b".", body]);
                vec![("x-makini-timestamp", timestamp), ("x-makini-signature", format!("sha256={signature}"))]
            }
            Self::Github { secret } => {
                vec![("X-Hub-Signature-256", format!("sha256={}", hmac_sha256_hex(secret, &[body])))]
            }
            Self::Altered { signer, signed } => signer.headers(signed, now_s),
            Self::Unsigned => Vec::new(),
        }
    }
}

/// HMAC-SHA256 over the parts one after the other, in lower-case hex.
#[must_use]
pub fn hmac_sha256_hex(secret: &str, parts: &[&[u8]]) -> String {
    // A key of any length fits HMAC, so the error cannot be; an empty signature would be refused loudly.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    for part in parts {
        mac.update(part);
    }
    hex::encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn githubs_own_example_is_signed_as_github_says() {
        let signer = Signer::Github { secret: "It's a Secret to Everybody" };
        let expected = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        assert_eq!(signer.headers(b"Hello, World!", 0), [("X-Hub-Signature-256", expected.to_owned())]);
    }

    #[test]
    fn a_template_over_timestamp_and_body_is_signed_as_slack_says() {
        // Slack signs `v0:{timestamp}:{body}`: the same parts with other separators.
        let body = b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&\
channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https\
%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.\
47445629121.803a0bc887a14d10d2c447fce8b6703c";
        let got = hmac_sha256_hex("8f742231b10e8888abcd99yyyzzz85a5", &[b"v0:1531420618:", body]);
        assert_eq!(got, "a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503");
    }

    #[test]
    fn an_altered_body_carries_the_first_bodys_signature() {
        let signer = Signer::Makini { secret: "s", age_s: 10 };
        let altered = Signer::Altered { signer: Box::new(signer.clone()), signed: b"a".to_vec() };
        assert_eq!(altered.headers(b"b", 100), signer.headers(b"a", 100));
        assert_eq!(signer.headers(b"a", 100)[0], ("x-makini-timestamp", "90".to_owned()));
    }
}
