//! What must not be seen, and what refused callers were told.

use chat_service::pb::chat::v1::connect_chat_response::Event;
use tonic::Status;

use crate::common::*;

/// Parts of a token that are this long could be used, or say whose it is.
const TOKEN_PART_CHARS: usize = 16;

/// What must not be seen anywhere.
#[derive(Default)]
pub struct Canaries(Vec<(&'static str, String)>);

impl Canaries {
    pub fn new() -> Self {
        Self(vec![("the HS256 secret", SECRET.to_owned())])
    }

    /// A value that occurs nowhere else.
    pub fn hide(&mut self, what: &'static str) -> String {
        let value = format!("canary{}", uuid::Uuid::new_v4().simple());
        self.0.push((what, value.clone()));
        value
    }

    pub fn hide_token(&mut self, what: &'static str, token: String) -> String {
        let parts = token.split('.').filter(|part| part.len() >= TOKEN_PART_CHARS).map(str::to_owned);
        self.0.extend(parts.map(|part| (what, part)));
        token
    }

    pub fn token(&mut self, what: &'static str, sub: &str, roles: &[&str]) -> String {
        self.hide_token(what, mint(sub, roles))
    }

    /// Holds that none is in it: neither as it is, nor as a list of bytes, as `Debug` writes them.
    #[track_caller]
    pub fn are_not_in(&self, said: &str, whose: &str) {
        for (what, value) in &self.0 {
            let bytes: Vec<String> = value.bytes().take(TOKEN_PART_CHARS).map(|byte| byte.to_string()).collect();
            for form in [value.clone(), bytes.join(", ")] {
                if let Some(at) = said.find(&form) {
                    let from = said.floor_char_boundary(at.saturating_sub(200));
                    panic!("{what} is in {whose}: …{}", &said[from..at + form.len()]);
                }
            }
        }
    }
}

/// What refused callers were told.
#[derive(Default)]
pub struct Told(pub String);

impl Told {
    pub fn refused<T>(&mut self, answer: Result<T, Status>) {
        if let Err(status) = answer {
            self.status(&status);
        } else {
            panic!("it was to be refused");
        }
    }

    pub fn status(&mut self, status: &Status) {
        self.0 += &format!("{status:?}\n{}\n{}\n", status.message(), String::from_utf8_lossy(status.details()));
    }

    pub fn rejected(&mut self, event: Event) {
        match event {
            Event::Rejected(rejected) => self.status(&refusal(&rejected)),
            other => panic!("it was to be rejected: {other:?}"),
        }
    }
}
