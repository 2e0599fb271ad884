//! What an export's outcome means: it is counted, and the log says once that the collector is away, and once that it is back.

use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry_otlp::SpanExporter as OtlpExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

use crate::observe::metrics;

#[derive(Debug)]
pub struct Told {
    inner: OtlpExporter,
    /// The last export failed: said once, not for each.
    away: AtomicBool,
}

impl Told {
    pub fn new(inner: OtlpExporter) -> Self {
        Self { inner, away: AtomicBool::new(false) }
    }
}

impl SpanExporter for Told {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let exported = self.inner.export(batch).await;
        match &exported {
            Ok(()) => {
                metrics::SPANS_EXPORTED.add(spans);
                if self.away.swap(false, Ordering::Relaxed) {
                    tracing::info!("traces are exported again");
                }
            }
            Err(error) => {
                metrics::SPANS_LOST.add(spans);
                if !self.away.swap(true, Ordering::Relaxed) {
                    tracing::warn!(error = %error, "the collector takes no traces (OTEL_EXPORTER_OTLP_ENDPOINT); until it does they are lost");
                }
            }
        }
        exported
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
