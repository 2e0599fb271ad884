//! Where traces go, by OpenTelemetry's own variables. What isn't here, its SDK reads by itself: OTEL_RESOURCE_ATTRIBUTES,
//! OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_COMPRESSION, OTEL_BSP_* and OTEL_SPAN_*.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::Uri;

use super::{ConfigError, any_path, unless_empty};
use crate::model::Secret;

/// Where traces go over HTTP, below the endpoint that is for every kind of signal.
const TRACES_PATH: &str = "/v1/traces";

#[derive(Args, Clone, Debug)]
pub struct TraceArgs {
    /// OTLP collector that gets traces, like http://localhost:4318; unset: nothing is traced
    // Addresses may hold credentials.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", hide_env_values = true)]
    pub otlp_endpoint: Option<Secret<String>>,
    /// The same for traces alone; over HTTP with its path
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", hide_env_values = true)]
    pub otlp_traces_endpoint: Option<Secret<String>>,
    /// How it is spoken to: `grpc` or `http/protobuf`
    #[arg(long, env = "OTEL_EXPORTER_OTLP_PROTOCOL", default_value = "http/protobuf")]
    pub otlp_protocol: String,
    /// PEM file with the CAs that are believed of it, instead of the system's
    #[arg(long, env = "OTEL_EXPORTER_OTLP_CERTIFICATE", value_parser = any_path)]
    pub otlp_certificate: Option<PathBuf>,
    /// How long an export may take, in milliseconds
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TIMEOUT", default_value = "10000")]
    pub otlp_timeout_ms: String,
    /// The name that this service has in traces
    #[arg(long, env = "OTEL_SERVICE_NAME", default_value = "chat-service")]
    pub otel_service_name: String,
    /// Which traces are kept: always_on, always_off, traceidratio, or parentbased_ and one of these
    #[arg(long, env = "OTEL_TRACES_SAMPLER", default_value = "parentbased_always_on")]
    pub otel_traces_sampler: String,
    /// The ratio's part of all traces, 0 to 1
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", default_value = "1")]
    pub otel_traces_sampler_arg: String,
    /// `none`: nothing is traced, whatever else is set
    #[arg(long, env = "OTEL_TRACES_EXPORTER", default_value = "otlp")]
    pub otel_traces_exporter: String,
    /// true: the same
    #[arg(long, env = "OTEL_SDK_DISABLED", default_value = "false")]
    pub otel_sdk_disabled: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Grpc,
    Http,
}

/// Which traces are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// What the client decided counts, where it sent a trace along.
    pub by_parent: bool,
    /// This part of the others, 0 to 1.
    pub ratio: f64,
}

/// The collector, and what it gets. The address's path may hold a key.
#[derive(Clone)]
pub struct Collector {
    pub protocol: Protocol,
    /// Over HTTP with the path. Without a user or a password.
    pub address: Uri,
    pub certificate: Option<PathBuf>,
    pub export_due: Duration,
    pub service_name: String,
    pub sampling: Sampling,
}

impl Collector {
    /// `None`: nothing is traced, and the rest isn't looked at.
    pub fn of(args: &TraceArgs) -> Result<Option<Self>, ConfigError> {
        let disabled = args.otel_sdk_disabled.eq_ignore_ascii_case("true") || args.otel_traces_exporter == "none";
        let (own, general) = (told(&args.otlp_traces_endpoint), told(&args.otlp_endpoint));
        let (Some(text), false) = (own.or(general), disabled) else { return Ok(None) };
        let protocol = match args.otlp_protocol.as_str() {
            "grpc" => Protocol::Grpc,
            "http/protobuf" | "" => Protocol::Http,
            other => {
                return Err(wrong("OTEL_EXPORTER_OTLP_PROTOCOL", format!("{other:?} is not spoken"), "set it to grpc or http/protobuf"));
            }
        };
        let setting = if own.is_some() { "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" } else { "OTEL_EXPORTER_OTLP_ENDPOINT" };
        let path = if own.is_none() && protocol == Protocol::Http { TRACES_PATH } else { "" };
        let address = format!("{}{path}", if path.is_empty() { text } else { text.trim_end_matches('/') });
        // Without what it holds, which may be credentials.
        let address = address.parse::<Uri>().ok().filter(|address| matches!(address.scheme_str(), Some("http" | "https")));
        let address =
            address.ok_or_else(|| wrong(setting, "it is no http or https address".into(), "set it to one like http://localhost:4318"))?;
        // An address is shown in places where no secret belongs, and exporters don't turn its user into a header.
        if address.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            let mend = "take them out and set OTEL_EXPORTER_OTLP_HEADERS, for example to authorization=Basic%20<user:password in base64>";
            return Err(wrong(setting, "it holds a user or a password".into(), mend));
        }
        let timeout =
            unless_empty(&Some(args.otlp_timeout_ms.clone())).map_or(Some(10_000), |text| text.parse::<u64>().ok().filter(|ms| *ms > 0));
        let timeout = timeout
            .ok_or_else(|| wrong("OTEL_EXPORTER_OTLP_TIMEOUT", "it is no number of milliseconds".into(), "set it to one like 10000"))?;
        let name = unless_empty(&Some(args.otel_service_name.clone())).unwrap_or_else(|| "chat-service".to_owned());
        Ok(Some(Self {
            protocol,
            address,
            certificate: unless_empty(&args.otlp_certificate),
            export_due: Duration::from_millis(timeout),
            service_name: name,
            sampling: sampling(args)?,
        }))
    }
}

fn told(address: &Option<Secret<String>>) -> Option<&str> {
    address.as_ref().map(|address| address.expose().as_str()).filter(|address| !address.is_empty())
}

fn sampling(args: &TraceArgs) -> Result<Sampling, ConfigError> {
    let name = args.otel_traces_sampler.as_str();
    let (by_parent, root) = match name.strip_prefix("parentbased_") {
        Some(root) => (true, root),
        None if name.is_empty() => (true, "always_on"),
        None => (false, name),
    };
    let ratio = match root {
        "always_on" => 1.0,
        "always_off" => 0.0,
        "traceidratio" => ratio(&args.otel_traces_sampler_arg)
            .ok_or_else(|| wrong("OTEL_TRACES_SAMPLER_ARG", "it is no number from 0 to 1".into(), "set it to one like 0.01"))?,
        _ => {
            let mend = "set it to always_on, always_off, traceidratio, or parentbased_ and one of these";
            return Err(wrong("OTEL_TRACES_SAMPLER", format!("{name:?} is not known"), mend));
        }
    };
    Ok(Sampling { by_parent, ratio })
}

fn ratio(text: &str) -> Option<f64> {
    if text.is_empty() {
        return Some(1.0);
    }
    text.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio))
}

fn wrong(setting: &'static str, why: String, mend: &'static str) -> ConfigError {
    ConfigError::Traces { setting, why, mend }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        traces: TraceArgs,
    }

    fn collector(flags: &[&str]) -> Result<Option<Collector>, ConfigError> {
        Collector::of(&Cli::parse_from(std::iter::once("x").chain(flags.iter().copied())).traces)
    }

    #[test]
    fn nothing_is_traced_without_a_collector() {
        assert!(collector(&[]).unwrap().is_none());
        assert!(collector(&["--otlp-endpoint", "", "--otlp-protocol", "http/json"]).unwrap().is_none());
        assert!(collector(&["--otlp-endpoint", "http://c:4318", "--otel-traces-exporter", "none"]).unwrap().is_none());
        assert!(collector(&["--otlp-endpoint", "http://c:4318", "--otel-sdk-disabled", "TRUE"]).unwrap().is_none());
    }

    #[test]
    fn the_address_gets_its_path_where_it_is_for_every_signal() {
        let address = |flags: &[&str]| collector(flags).unwrap().unwrap().address.to_string();
        assert_eq!(address(&["--otlp-endpoint", "http://c:4318"]), "http://c:4318/v1/traces");
        assert_eq!(address(&["--otlp-endpoint", "http://c:4318/otel/"]), "http://c:4318/otel/v1/traces");
        assert_eq!(address(&["--otlp-endpoint", "http://x", "--otlp-traces-endpoint", "http://c:4318/in"]), "http://c:4318/in");
        assert_eq!(address(&["--otlp-endpoint", "http://c:4317", "--otlp-protocol", "grpc"]), "http://c:4317/");
    }

    #[test]
    fn samplers_are_opentelemetrys() {
        let sampling = |name: &str, ratio: &str| {
            let flags = ["--otlp-endpoint", "http://c", "--otel-traces-sampler", name, "--otel-traces-sampler-arg", ratio];
            collector(&flags).map(|found| found.unwrap().sampling).map(|found| (found.by_parent, found.ratio))
        };
        assert_eq!(sampling("parentbased_always_on", "").unwrap(), (true, 1.0));
        assert_eq!(sampling("always_off", "").unwrap(), (false, 0.0));
        assert_eq!(sampling("parentbased_traceidratio", "0.25").unwrap(), (true, 0.25));
        assert_eq!(sampling("traceidratio", "0.5").unwrap(), (false, 0.5));
        assert!(sampling("traceidratio", "2").is_err() && sampling("jaeger_remote", "").is_err());
    }

    #[test]
    fn credentials_in_the_address_are_refused_and_not_repeated() {
        for (flag, variable) in
            [("--otlp-endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT"), ("--otlp-traces-endpoint", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")]
        {
            for address in ["http://alice:hunter2@c:4318", "https://alice@c", "http://:hunter2@c:4318/in"] {
                let error = collector(&[flag, address]).err().unwrap().to_string();
                assert!(error.contains(variable) && error.contains("OTEL_EXPORTER_OTLP_HEADERS"), "{error}");
                assert!(!error.contains("hunter2") && !error.contains("alice"), "{error}");
            }
        }
        assert!(collector(&["--otlp-endpoint", "http://c:4318/@in"]).is_ok(), "a path may hold what it likes");
    }

    #[test]
    fn an_address_that_is_wrong_is_not_repeated() {
        let error = collector(&["--otlp-endpoint", "ftp://u:hunter2@c"]).err().unwrap().to_string();
        assert!(error.contains("OTEL_EXPORTER_OTLP_ENDPOINT") && !error.contains("hunter2"), "{error}");
    }
}
