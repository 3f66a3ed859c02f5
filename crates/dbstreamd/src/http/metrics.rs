//! `/metrics`: what a Prometheus server reads. Names and meanings are listed in docs/operations.md.
//!
//! Nothing is counted here: each scrape takes the snapshots that the API shows too. The log's own histograms are
//! registered as they are.

use std::fmt;
use std::sync::Arc;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use dbstreamd_log::ConsumerState;
use dbstreamd_source::{SlotHealth, State};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::{Shared, problem};
use crate::directory::{ConsumerSnapshot, StreamSnapshot};
use crate::memory::Usage;
use crate::process;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Of<T, V = f64> = (&'static str, &'static str, fn(&T) -> V);

const STREAM_GAUGES: &[Of<StreamSnapshot>] = &[
    ("dbstreamd_stream_epoch", "Rises when continuity with the source was broken", |s| f64::from(s.watermarks.epoch.0)),
    ("dbstreamd_stream_appended_offset", "Newest offset taken in", |s| float(s.watermarks.appended.0)),
    ("dbstreamd_stream_durable_offset", "Newest offset that is fsynced", |s| float(s.watermarks.durable.0)),
    ("dbstreamd_stream_visible_offset", "Newest offset that consumers see", |s| float(s.watermarks.visible.0)),
    ("dbstreamd_stream_trim_point", "Lowest offset that can still be read", |s| float(s.trim_point().0)),
    ("dbstreamd_stream_source_lsn", "End of the source's WAL as last heard", |s| float(s.source_lsn.0)),
    ("dbstreamd_stream_received_lsn", "End of what was received", |s| float(s.received_lsn.0)),
    ("dbstreamd_stream_visible_lsn", "End of the newest visible transaction", |s| float(s.watermarks.visible_lsn.0)),
    ("dbstreamd_stream_confirmed_lsn", "Durable here; how far the source may forget", |s| {
        float(s.watermarks.confirmed_through.0)
    }),
    (
        "dbstreamd_stream_lag_seconds",
        "Age of the newest received commit while behind, else 0; while not streaming at least the source's silence",
        StreamSnapshot::lag_seconds,
    ),
    ("dbstreamd_stream_visible_commit_timestamp_seconds", "Commit time of the newest visible transaction", |s| {
        seconds(s.watermarks.visible_commit_time)
    }),
    ("dbstreamd_stream_last_heard_timestamp_seconds", "When the source last sent anything", |s| seconds(s.last_heard)),
    ("dbstreamd_diverged_tables", "Tables whose rows changed without an event for each", |s| count(s.diverged.len())),
    ("dbstreamd_parked_places", "Events that stopped consumers since nobody can read them", |s| count(s.parked.len())),
    ("dbstreamd_stream_log_bytes", "Bytes of the log on disk that belong to the stream", |s| float(s.log_bytes)),
];

const STREAM_COUNTERS: &[Of<StreamSnapshot>] = &[
    ("dbstreamd_stream_received_bytes", "Bytes received from the source", |s| float(s.bytes_received)),
    ("dbstreamd_stream_received_events", "Events received from the source", |s| float(s.events_received)),
    ("dbstreamd_stream_received_transactions", "Transactions received from the source", |s| {
        float(s.transactions_received)
    }),
    ("dbstreamd_stream_received_keepalives", "Keepalives received from the source", |s| float(s.keepalives_received)),
    ("dbstreamd_stream_resent_transactions", "Transactions that the source sent again and that matched the log", |s| {
        float(s.resent_transactions)
    }),
    ("dbstreamd_stream_reconnects", "Sessions with the source after the first", |s| float(s.reconnects)),
];

const CONSUMER_GAUGES: &[Of<ConsumerSnapshot>] = &[
    ("dbstreamd_consumer_committed_offset", "Newest offset the consumer committed", |c| float(c.committed.0)),
    ("dbstreamd_consumer_lag_events", "Visible events the consumer has not committed", |c| float(c.lag_events)),
    ("dbstreamd_consumer_lag_bytes", "Bytes of the log between the consumer and the newest visible event", |c| {
        float(c.lag_bytes)
    }),
    ("dbstreamd_consumer_holds", "1 while retention keeps what the consumer has not read", |c| flag(c.state.holds())),
    ("dbstreamd_consumer_lagging", "1 while the consumer is behind by more than consumers.max_lag_bytes", |c| {
        flag(!c.state.holds() || c.state == ConsumerState::Lagging)
    }),
    ("dbstreamd_consumer_needs_snapshot", "1 while the consumer cannot go on where it is", |c| {
        flag(matches!(c.state, ConsumerState::NeedsSnapshot(_)))
    }),
    ("dbstreamd_consumer_connected", "1 while the consumer is subscribed", |c| flag(c.connected)),
];

/// A number of things as a gauge.
fn count(things: usize) -> f64 {
    float(things as u64)
}

/// A yes or no as a gauge.
const fn flag(yes: bool) -> f64 {
    if yes { 1.0 } else { 0.0 }
}

/// A registry over everything the daemon knows.
pub(super) fn registry(shared: &Arc<Shared>) -> Arc<Registry> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshots(Arc::clone(shared))));
    let log = shared.directory.log().metrics();
    let counters = [
        ("flushes", "Group commits", &log.flushes),
        ("chunks", "Chunks written", &log.chunks),
        ("events", "Events written", &log.events),
        ("body_bytes", "Bytes of event bodies written, before compression", &log.body_bytes),
        ("stored_bytes", "Bytes of chunks written, as stored", &log.stored_bytes),
        ("tail_chunks", "Chunks served from memory", &log.ring_hits),
        ("disk_chunks", "Chunks read from disk", &log.disk_chunks),
        ("partitions_dropped", "Partitions removed by retention", &log.partitions_dropped),
        ("damaged_chunks", "Chunks that could not be read back", &log.damaged_chunks),
    ];
    for (name, help, counter) in counters {
        registry.register(format!("dbstreamd_log_{name}"), help, counter.clone());
    }
    let histograms = [
        ("flush_bytes", "Bytes per group commit, as stored", &log.flush_bytes),
        ("flush_seconds", "Seconds per group commit, fsync included", &log.flush_seconds),
    ];
    for (name, help, histogram) in histograms {
        registry.register(format!("dbstreamd_log_{name}"), help, histogram.clone());
    }
    let latencies = [
        ("receive_to_append", "From the read that ended a transaction to the log's writer", &log.receive_to_append),
        ("append_to_fsync", "From the log's writer being asked to the end of the fsync", &log.append_to_fsync),
        ("fsync_to_visible", "From the end of the fsync to readers finding the events", &log.fsync_to_visible),
        ("visible_to_sent", "From there to a subscriber's connection", &shared.directory.visible_to_sent),
    ];
    for (name, help, histogram) in latencies {
        registry.register(format!("dbstreamd_latency_{name}_seconds"), help, histogram.clone());
    }
    registry.register("dbstreamd_notices", "Things that happened, by kind", shared.directory.notices.counted());
    Arc::new(registry)
}

pub(super) async fn render(registry: Arc<Registry>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, format!("the metrics could not be rendered: {error}")),
    }
}

struct Snapshots(Arc<Shared>);

impl fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Snapshots")
    }
}

impl Collector for Snapshots {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let shared = &self.0;
        let streams = shared.directory.snapshots().map_err(|_| fmt::Error)?;
        let consumers = shared.directory.consumers(None).map_err(|_| fmt::Error)?;
        for (name, help, of) in STREAM_GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for stream in &streams {
                ConstGauge::new(of(stream)).encode(family.encode_family(&[("stream", stream.name.as_str())])?)?;
            }
        }
        lag_bytes(&mut encoder, &streams)?;
        for (name, help, of) in STREAM_COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for stream in &streams {
                ConstCounter::new(of(stream)).encode(family.encode_family(&[("stream", stream.name.as_str())])?)?;
            }
        }
        send_to_receive(&mut encoder, shared)?;
        states(&mut encoder, &streams)?;
        slots(&mut encoder, &streams)?;
        for (name, help, of) in CONSUMER_GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for consumer in &consumers {
                let labels = [("stream", consumer.stream.as_str()), ("consumer", consumer.name.as_str())];
                ConstGauge::new(of(consumer)).encode(family.encode_family(&labels)?)?;
            }
        }
        memory(&mut encoder, shared)?;
        daemon(&mut encoder, shared)
    }
}

/// The only step that two clocks are needed for, so it is told apart by server.
fn send_to_receive(encoder: &mut DescriptorEncoder<'_>, shared: &Shared) -> fmt::Result {
    let help = "From the server's sending, by its clock, to the read that brought it";
    let name = "dbstreamd_latency_send_to_receive_seconds";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for entry in shared.directory.entries() {
        if let Some(running) = &entry.running {
            let labels = [("stream", entry.name.as_str())];
            running.status.send_to_receive().encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// No sample for a stream of which it is not known yet.
fn lag_bytes(encoder: &mut DescriptorEncoder<'_>, streams: &[StreamSnapshot]) -> fmt::Result {
    let help = "Bytes of the source's WAL that are not yet durable here; absent while unknown";
    let mut family = encoder.encode_descriptor("dbstreamd_stream_lag_bytes", help, None, MetricType::Gauge)?;
    for stream in streams {
        if let Some(bytes) = stream.lag_bytes() {
            ConstGauge::new(float(bytes)).encode(family.encode_family(&[("stream", stream.name.as_str())])?)?;
        }
    }
    Ok(())
}

/// One sample per stream and state, 1 for the state it is in.
fn states(encoder: &mut DescriptorEncoder<'_>, streams: &[StreamSnapshot]) -> fmt::Result {
    let help = "1 for the state the stream is in";
    let mut family = encoder.encode_descriptor("dbstreamd_stream_state", help, None, MetricType::Gauge)?;
    for stream in streams {
        for state in State::ALL {
            let is = stream.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.state == state);
            let labels = [("stream", stream.name.as_str()), ("state", state.name())];
            ConstGauge::new(i64::from(is)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// What the sources keep for the slots; no sample where nobody has looked yet.
fn slots(encoder: &mut DescriptorEncoder<'_>, streams: &[StreamSnapshot]) -> fmt::Result {
    type Gauge = (&'static str, &'static str, fn(&SlotHealth) -> Option<f64>);
    const GAUGES: &[Gauge] = &[
        ("dbstreamd_slot_retained_wal_bytes", "WAL the server keeps for the slot", |s| Some(float(s.retained_bytes))),
        ("dbstreamd_slot_safe_wal_bytes", "WAL that may be written before the slot can be lost", |s| {
            s.safe_bytes.map(float)
        }),
        ("dbstreamd_slot_pinned", "Transactions that keep the slot's WAL far behind what was confirmed", |s| {
            Some(size(s.pinned_by.len()))
        }),
        ("dbstreamd_slot_insurance_retained_wal_bytes", "WAL the server keeps for the insurance slot", |s| {
            s.insurance.as_ref().map(|insurance| float(insurance.retained_bytes))
        }),
    ];
    let seen = || streams.iter().filter_map(|stream| Some((stream.name.as_str(), stream.slot_health.as_ref()?)));
    for (name, help, of) in GAUGES {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (stream, slot) in seen() {
            if let Some(value) = of(slot) {
                ConstGauge::new(value).encode(family.encode_family(&[("stream", stream)])?)?;
            }
        }
    }
    let help = "1 for the slot's wal_status";
    let mut family = encoder.encode_descriptor("dbstreamd_slot_wal_status", help, None, MetricType::Gauge)?;
    for (stream, slot) in seen() {
        let labels = [("stream", stream), ("status", slot.wal_status.as_str())];
        ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// The memory budget; what is used has no sample where nobody counts it.
fn memory(encoder: &mut DescriptorEncoder<'_>, shared: &Shared) -> fmt::Result {
    let usage = shared.memory.usage(shared.directory.log());
    let families: [Of<Usage, Option<f64>>; 2] = [
        ("dbstreamd_memory_budget_bytes", "Memory that a component may use", |u| Some(float(u.budget))),
        ("dbstreamd_memory_used_bytes", "Memory that a component uses", |u| u.used.map(float)),
    ];
    for (name, help, of) in families {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for component in &usage {
            if let Some(bytes) = of(component) {
                ConstGauge::new(bytes).encode(family.encode_family(&[("component", component.component.name())])?)?;
            }
        }
    }
    if let Some(limit) = &shared.memory.budget.limit {
        let help = "Memory there is: memory.total, the control group's or the machine's";
        let family = encoder.encode_descriptor("dbstreamd_memory_limit_bytes", help, None, MetricType::Gauge)?;
        ConstGauge::new(float(limit.bytes)).encode(family)?;
    }
    Ok(())
}

fn daemon(encoder: &mut DescriptorEncoder<'_>, shared: &Shared) -> fmt::Result {
    let log = shared.directory.log();
    let taken = |seats: &tokio::sync::Semaphore, of: usize| size(of.saturating_sub(seats.available_permits()));
    let usage = process::usage();
    let gauges = [
        ("dbstreamd_subscribers", "gRPC subscriptions now", taken(&shared.subscribers, shared.subscribers_max)),
        (
            "dbstreamd_event_streams",
            "Event streams over HTTP now",
            taken(&shared.event_streams, shared.event_streams_max),
        ),
        (
            "dbstreamd_credit_window_used_bytes",
            "Received bytes that are not durable yet",
            size(shared.memory.window.used()),
        ),
        (
            "dbstreamd_credit_window_limit_bytes",
            "How many there may be before reading stops",
            size(shared.memory.window.limit()),
        ),
        ("dbstreamd_log_disk_bytes", "Bytes of the log on disk", float(log.disk_bytes())),
        ("dbstreamd_log_failed", "1 while the log does not write", if log.failure().is_some() { 1.0 } else { 0.0 }),
        ("process_resident_memory_bytes", "Resident memory", float(usage.resident_bytes)),
        ("process_open_fds", "Open file descriptors", float(usage.open_files)),
        ("process_start_time_seconds", "Start of the process, seconds since 1970-01-01 UTC", usage.started_seconds),
    ];
    for (name, help, value) in gauges {
        ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
    }
    let cpu =
        encoder.encode_descriptor("process_cpu_seconds", "CPU time, user and system", None, MetricType::Counter)?;
    ConstCounter::new(usage.cpu_seconds).encode(cpu)
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus counts in floats")]
fn float(number: u64) -> f64 {
    number as f64
}

fn size(number: usize) -> f64 {
    float(number as u64)
}

fn seconds(time: dbstreamd_model::Timestamp) -> f64 {
    time.seconds_since(dbstreamd_model::Timestamp(0))
}
