//! Writes a registry of connections for Hookline: a directory with a file for each connection, and its secret and
//! token in files beside it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use super::world::secret;

/// How long a token's file is half written, where that is wanted.
const HALF_WRITTEN: Duration = Duration::from_secs(1);

/// Writes the whole registry; the directory is made where there is none.
pub(crate) fn write<'a>(
    dir: &Path,
    tokens: impl Iterator<Item = (&'a String, &'a String)>,
) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let dir = dir.canonicalize()?;
    for (connection, token) in tokens {
        replace(&dir, &format!("{connection}.secret"), &secret(connection))?;
        write_token(&dir, connection, token, false)?;
        let reference =
            |kind: &str| quoted(&format!("file:{}", dir.join(format!("{connection}.{kind}")).display()));
        let text = format!(
            "[{}]\nsecrets = [{}]\ntoken = {}\nlabels = {{ customer = {} }}\n",
            quoted(connection),
            reference("secret"),
            reference("token"),
            quoted(&connection.to_uppercase()),
        );
        // Last, so that what it refers to is there.
        replace(&dir, &format!("{connection}.toml"), &text)?;
    }
    Ok(())
}

/// Writes a connection's token: at once, or in two halves as a careless program does.
pub(crate) fn write_token(dir: &Path, connection: &str, token: &str, in_halves: bool) -> io::Result<()> {
    let name = format!("{connection}.token");
    if !in_halves {
        return replace(dir, &name, token);
    }
    let (first, second) = token.as_bytes().split_at(token.len() / 2);
    let mut file = File::create(dir.join(name))?;
    file.write_all(first)?;
    file.sync_all()?;
    std::thread::sleep(HALF_WRITTEN);
    file.write_all(second)
}

/// Puts a file there as a whole.
fn replace(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let unfinished = dir.join(format!("{name}.new"));
    fs::write(&unfinished, text)?;
    fs::rename(unfinished, dir.join(name))
}

/// A TOML string: JSON's escapes are TOML's too.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
