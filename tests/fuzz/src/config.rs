//! The configuration file.

use std::path::Path;

use bolero::check;
use shared::config::{Config, Secrets};

use crate::damaged;

const EXAMPLE: &str = include_str!("../../../deploy/hookline.example.toml");

#[test]
fn configurations() {
    check!().with_type::<(u16, Vec<u8>)>().for_each(|(at, drawn)| {
        let bytes = damaged(EXAMPLE.as_bytes(), usize::from(*at), drawn);
        let text = String::from_utf8_lossy(&bytes);
        if let Err(error) = Config::parse(&text, Path::new("hookline.toml"), Secrets::Sources) {
            assert!(error.to_string().starts_with("hookline.toml"), "{error}: it says where");
        }
    });
}
