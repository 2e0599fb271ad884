//! Traces, from spans to an OTLP collector.
//!
//! Spans that have ended wait in a bounded queue, which a thread of its own empties; what doesn't fit is dropped, and a collector that
//! is away costs requests nothing.
//!
//! - [`export`]: what an export's outcome means for the log and the metrics.
//! - [`http`]: OTLP over HTTP by this project's own client: the exporter's would bring in a second one.

mod export;
mod http;

use std::time::Duration;

use ::http::Uri;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{Protocol as OtlpProtocol, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use tonic::transport::{Channel, Endpoint};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::registry::LookupSpan;

use crate::client::trust::{Trust, TrustError};
use crate::config::{Collector, Protocol, Sampling};
use crate::observe::trace::TARGET;

/// How long a connection to the collector may take to be made.
const CONNECT_DUE: Duration = Duration::from_secs(3);

/// Why traces can't be exported. One line, naming the setting and the mend.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("OTEL_EXPORTER_OTLP_ENDPOINT: can't use the address: {0}; correct it")]
    Address(String),
    #[error("can't export traces: {0}; correct OpenTelemetry's variables (OTEL_…), or unset OTEL_EXPORTER_OTLP_ENDPOINT")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// The way to the collector.
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// Begins to export. In a runtime: connections are its tasks. Nothing is connected before there is something to tell.
pub fn start(collector: &Collector) -> Result<Traces, TracesError> {
    let https = collector.address.scheme_str() == Some("https");
    let trust = https.then(|| Trust::load("OTEL_EXPORTER_OTLP_CERTIFICATE", collector.certificate.as_deref())).transpose()?;
    let exporter = match collector.protocol {
        Protocol::Grpc => {
            let channel = channel(&collector.address, trust.as_ref(), collector.export_due)?;
            SpanExporter::builder().with_tonic().with_timeout(collector.export_due).with_channel(channel).build()?
        }
        Protocol::Http => {
            let client = http::Client::new(&collector.address, trust.as_ref(), collector.export_due)
                .ok_or_else(|| TracesError::Address("it has no host that could be asked".into()))?;
            SpanExporter::builder()
                .with_http()
                .with_protocol(OtlpProtocol::HttpBinary)
                .with_endpoint(collector.address.to_string())
                .with_timeout(collector.export_due)
                .with_http_client(client)
                .build()?
        }
    };
    let resource = Resource::builder()
        .with_service_name(collector.service_name.clone())
        .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let provider = SdkTracerProvider::builder()
        .with_sampler(sampler(collector.sampling))
        .with_resource(resource)
        .with_batch_exporter(export::Told::new(exporter))
        .build();
    let tracer = provider.tracer("chat-service");
    Ok(Traces { provider, tracer })
}

impl Traces {
    /// The layer that makes spans of this service's steps, and of nothing else.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: tracing::Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        // Places in the source and threads say nothing about a request.
        tracing_opentelemetry::layer::<S>()
            .with_tracer(self.tracer.clone())
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(|metadata| metadata.is_span() && metadata.target() == TARGET).with_max_level_hint(LevelFilter::INFO))
    }

    /// Exports what waits, within `due`; what doesn't get through by then is lost.
    pub async fn flush(self, due: Duration) {
        let provider = self.provider;
        let flushed = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(due)).await;
        if !matches!(flushed, Ok(Ok(()))) {
            tracing::warn!("the last traces were not exported in time");
        }
    }
}

fn channel(address: &Uri, trust: Option<&Trust>, due: Duration) -> Result<Channel, TracesError> {
    let mut endpoint = Endpoint::from(address.clone()).connect_timeout(CONNECT_DUE).timeout(due);
    if let Some(trust) = trust {
        endpoint = endpoint.tls_config(trust.grpc()).map_err(|error| TracesError::Address(error.to_string()))?;
    }
    Ok(endpoint.connect_lazy())
}

fn sampler(sampling: Sampling) -> Sampler {
    // A ratio of 1 keeps every trace, and one of 0 none.
    let root = Sampler::TraceIdRatioBased(sampling.ratio);
    if sampling.by_parent { Sampler::ParentBased(Box::new(root)) } else { root }
}
