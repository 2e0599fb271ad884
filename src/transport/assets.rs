//! The files that the public port serves without a token: a fixed table in the binary. Only its exact names are found, so there is nothing to climb out of.

use std::collections::HashMap;
use std::fmt::Write as _;

use axum::body::Body;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::header::{REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use sha2::{Digest, Sha256};
use tonic::Code;

use super::gateway::OPENAPI;

/// The methods of every file.
pub const METHODS: &str = "GET, HEAD";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const JSON: &str = "application/json";
const SVG: &str = "image/svg+xml";

/// What is no page may do nothing at all.
const NOTHING: &str = "default-src 'none'; frame-ancestors 'none'";
/// The chat page: its own files, and calls to this server.
const PAGE: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Swagger UI: its own script and style, and calls to this server. Styles of single elements are set by its script, which that policy lets it do; `data:` is
/// for the icons in its style sheet.
const SWAGGER: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

struct File {
    path: &'static str,
    content_type: &'static str,
    policy: &'static str,
    bytes: &'static [u8],
}

macro_rules! embedded {
    ($path:literal, $content_type:expr, $policy:expr, $file:literal) => {
        File {
            path: $path,
            content_type: $content_type,
            policy: $policy,
            bytes: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/", $file)),
        }
    };
}

const FILES: &[File] = &[
    embedded!("/", HTML, PAGE, "page/index.html"),
    embedded!("/page/style.css", CSS, PAGE, "page/style.css"),
    embedded!("/page/icon.svg", SVG, PAGE, "page/icon.svg"),
    embedded!("/page/api.js", JAVASCRIPT, PAGE, "page/api.js"),
    embedded!("/page/store.js", JAVASCRIPT, PAGE, "page/store.js"),
    embedded!("/page/connection.js", JAVASCRIPT, PAGE, "page/connection.js"),
    embedded!("/page/view.js", JAVASCRIPT, PAGE, "page/view.js"),
    embedded!("/page/main.js", JAVASCRIPT, PAGE, "page/main.js"),
    embedded!("/swagger", HTML, SWAGGER, "swagger/index.html"),
    embedded!("/swagger/", HTML, SWAGGER, "swagger/index.html"),
    embedded!("/swagger/initializer.js", JAVASCRIPT, SWAGGER, "swagger/initializer.js"),
    embedded!("/swagger/swagger-ui-bundle.js", JAVASCRIPT, SWAGGER, "swagger/swagger-ui-bundle.js"),
    embedded!("/swagger/swagger-ui.css", CSS, SWAGGER, "swagger/swagger-ui.css"),
    File { path: "/swagger/openapi.json", content_type: JSON, policy: NOTHING, bytes: OPENAPI.as_bytes() },
];

/// The table, ready to be asked.
pub struct Assets(HashMap<&'static str, Asset>);

pub struct Asset {
    file: &'static File,
    /// Of its contents.
    etag: HeaderValue,
}

impl Assets {
    pub fn new() -> Self {
        Self(FILES.iter().map(|file| (file.path, Asset { file, etag: etag(file.bytes) })).collect())
    }

    /// The file at exactly this path.
    pub fn find(&self, path: &str) -> Option<&Asset> {
        self.0.get(path)
    }
}

impl Asset {
    /// The answer to GET; HEAD's is the same without its body.
    pub fn answer(&self, request: &HeaderMap) -> Response<Body> {
        let unchanged = request.get_all(IF_NONE_MATCH).iter().any(|value| self.is_named_by(value));
        let mut response = Response::new(if unchanged { Body::empty() } else { Body::from(self.file.bytes) });
        if unchanged {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            response.headers_mut().insert(CONTENT_LENGTH, self.file.bytes.len().into());
        }
        let fixed: [(HeaderName, &'static str); 6] = [
            (CONTENT_TYPE, self.file.content_type),
            // Kept, but asked about each time: another version of the server may have another file.
            (CACHE_CONTROL, "no-cache"),
            (CONTENT_SECURITY_POLICY, self.file.policy),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "no-referrer"),
            (X_FRAME_OPTIONS, "DENY"),
        ];
        for (name, value) in fixed {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response.headers_mut().insert(ETAG, self.etag.clone());
        // For the log's line.
        response.extensions_mut().insert(Code::Ok);
        response
    }

    fn is_named_by(&self, condition: &HeaderValue) -> bool {
        let Ok(condition) = condition.to_str() else { return false };
        condition
            .split(',')
            .map(str::trim)
            .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == self.etag.as_bytes())
    }
}

fn etag(bytes: &[u8]) -> HeaderValue {
    let mut text = String::from("\"");
    for byte in Sha256::digest(bytes).iter().take(16) {
        // Writing to a string doesn't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.push('"');
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_tables_names_are_found() {
        let assets = Assets::new();
        assert_eq!(assets.0.len(), FILES.len(), "a name comes twice");
        assert!(assets.find("/swagger").is_some() && assets.find("/swagger/openapi.json").is_some());
        for path in ["/swagger/../Cargo.toml", "/swagger//", "/swagger/%2e%2e/x", "/Swagger", "/swagger/index.html/", "swagger", ""] {
            assert!(assets.find(path).is_none(), "{path}");
        }
    }

    #[test]
    fn an_unchanged_file_is_not_sent_again() {
        let assets = Assets::new();
        let asset = assets.find("/swagger/openapi.json").unwrap();
        let first = asset.answer(&HeaderMap::new());
        let tag = first.headers()[ETAG].to_str().unwrap().to_owned();
        assert_eq!(first.status(), StatusCode::OK);
        for condition in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
            let again = asset.answer(&HeaderMap::from_iter([(IF_NONE_MATCH, condition.parse().unwrap())]));
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{condition}");
            assert!(again.headers().contains_key(CONTENT_SECURITY_POLICY) && !again.headers().contains_key(CONTENT_LENGTH));
        }
        let other = asset.answer(&HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static("\"x\""))]));
        assert_eq!(other.status(), StatusCode::OK);
    }

    #[test]
    fn no_page_has_script_in_it() {
        for file in FILES.iter().filter(|file| file.content_type == HTML) {
            let text = std::str::from_utf8(file.bytes).unwrap();
            assert!(!text.contains("<style") && !text.contains("style=") && !text.contains(" on"), "{}", file.path);
            assert!(text.split("<script").skip(1).all(|script| script.starts_with(" src=")), "{}", file.path);
            assert!(!text.contains("http://") && !text.contains("https://"), "{} asks others", file.path);
        }
    }
}
