//! Values that must not be shown.

use std::fmt;

/// A secret. It has no `Display` and its `Debug` shows nothing, so it can't slip into a log line, an error or a panic's message;
/// only [`Secret::expose`] gives it away, which is easy to search for.
///
/// Its memory isn't wiped: the libraries that use a secret keep copies of their own, and so does the process's environment.
#[derive(Clone)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// For the command line's parser.
impl From<String> for Secret<String> {
    fn from(value: String) -> Self {
        Self(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show_in_debug_output_of_whatever_holds_it() {
        let holder = (Secret::new("hunter2"), Some(Secret::new(b"hunter2".to_vec())));
        assert_eq!(format!("{holder:?} {:#?}", holder.0), "([redacted], Some([redacted])) [redacted]");
    }
}
