//! Summing the workers' slabs at scrape, in the Prometheus text format.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder, NoLabelSet, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::{
    BUCKETS_US, Counter, ExtraGauge, Gauge, Observe, Slab,
    clusters::{BUCKETS_MS, ClusterSlab},
    names::{self, Metric},
};

/// The whole text.
pub(super) fn render(observe: &Observe) -> String {
    let mut registry = Registry::default();
    let workers = observe.slabs.lock().clone();
    let control = Arc::clone(&observe.control);
    let elsewhere = observe.elsewhere.lock().clone();
    let extras = observe.extras.lock().iter().map(read).collect();
    let clusters = observe.clusters.all();
    registry.register_collector(Box::new(Scrape { workers, control, elsewhere, clusters, extras }));
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _a_string_takes_everything = encode(&mut text, &registry);
    text
}

type Series = (Vec<(&'static str, String)>, f64);

fn read(gauge: &ExtraGauge) -> (Metric, Vec<Series>) {
    (gauge.metric, (gauge.read)())
}

#[derive(Debug)]
struct Scrape {
    workers: Vec<Arc<Slab>>,
    control: Arc<Slab>,
    elsewhere: Vec<(Counter, Arc<AtomicU64>)>,
    clusters: Vec<(Arc<str>, Vec<Arc<ClusterSlab>>)>,
    extras: Vec<(Metric, Vec<Series>)>,
}

const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
/// Envoy's names of the classes that it counts.
const ENVOY_CLASSES: [(usize, &str); 5] = [(1, "1"), (2, "2"), (3, "3"), (4, "4"), (5, "5")];

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let encoder = &mut encoder;
        for (counter, name, help) in Counter::ALL {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(self.counter(*counter)).encode(metric)?;
        }
        for (gauge, name, help) in Gauge::ALL {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(self.gauge(*gauge)).encode(metric)?;
        }
        self.requests(encoder)?;
        self.latency(encoder)?;
        self.workers(encoder)?;
        self.downstream(encoder)?;
        self.cluster_requests(encoder)?;
        self.cluster_latency(encoder)?;
        for (metric, series) in &self.extras {
            let mut family = describe(encoder, *metric, MetricType::Gauge)?;
            for (labels, value) in series {
                ConstGauge::new(*value).encode(family.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

fn describe<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    metric: Metric,
    kind: MetricType,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    encoder.encode_descriptor(metric.name, metric.help, None, kind)
}

/// Envoy's `.._xx` counters have no `_total`: in this format only a metric of unknown type may be called so.
fn envoy_class(value: u64) -> ConstGauge<u64> {
    ConstGauge::new(value)
}

#[allow(clippy::cast_precision_loss, reason = "microseconds of a process's life fit a double's 52 bits")]
fn float(value: u64) -> f64 {
    value as f64
}

/// Buckets for the encoder, with their sum.
fn buckets(bounds: impl Iterator<Item = f64>, count: impl Fn(usize) -> u64) -> (Vec<(f64, u64)>, u64) {
    let counts: Vec<_> =
        bounds.chain([f64::MAX]).enumerate().map(|(index, bound)| (bound, count(index))).collect();
    let total = counts.iter().map(|(_, count)| count).sum();
    (counts, total)
}

fn loaded(cells: &[AtomicU64], index: usize) -> u64 {
    cells.get(index).map_or(0, |cell| cell.load(Relaxed))
}

impl Scrape {
    fn slabs(&self) -> impl Iterator<Item = &Slab> {
        self.workers.iter().chain([&self.control]).map(|slab| &**slab)
    }

    fn sum(&self, read: impl Fn(&Slab) -> u64) -> u64 {
        self.slabs().map(read).sum()
    }

    fn counter(&self, counter: Counter) -> u64 {
        let elsewhere = self.elsewhere.iter().filter(|(counted, _)| *counted == counter);
        let elsewhere: u64 = elsewhere.map(|(_, cell)| cell.load(Relaxed)).sum();
        self.sum(|slab| loaded(&slab.counters, counter as usize)) + elsewhere
    }

    fn gauge(&self, gauge: Gauge) -> i64 {
        let cells = self.slabs().filter_map(|slab| slab.gauges.get(gauge as usize));
        cells.map(|cell| cell.load(Relaxed)).sum()
    }

    fn class(&self, index: usize) -> u64 {
        self.sum(|slab| loaded(&slab.classes, index))
    }

    fn requests(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family = describe(encoder, names::REQUESTS, MetricType::Counter)?;
        for (index, class) in CLASSES.into_iter().enumerate() {
            ConstCounter::new(self.class(index)).encode(family.encode_family(&[("class", class)])?)?;
        }
        let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
        for slab in self.slabs() {
            for (reason, count) in slab.reasons.lock().iter() {
                *reasons.entry(reason.code().to_owned()).or_default() += count;
            }
        }
        let mut family = describe(encoder, names::FAILURES, MetricType::Counter)?;
        for (reason, count) in reasons {
            ConstCounter::new(count).encode(family.encode_family(&[("reason", reason)])?)?;
        }
        Ok(())
    }

    fn latency(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut metric = describe(encoder, names::DURATION, MetricType::Histogram)?;
        let bounds = BUCKETS_US.iter().map(|bound| float(*bound) / 1e6);
        let (counts, total) = buckets(bounds, |index| self.sum(|slab| loaded(&slab.buckets, index)));
        let sum = float(self.sum(|slab| slab.latency_sum_us.load(Relaxed))) / 1e6;
        metric.encode_histogram::<NoLabelSet>(sum, total, &counts, None)
    }

    fn workers(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family = describe(encoder, names::LOOP_LAG, MetricType::Gauge)?;
        for (index, slab) in self.workers.iter().enumerate() {
            ConstGauge::new(slab.lag_us()).encode(family.encode_family(&[("worker", index.to_string())])?)?;
        }
        Ok(())
    }

    /// What Emissary's dashboards show of listeners.
    fn downstream(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let labels = [names::MANAGER];
        let mut family = describe(encoder, names::DOWNSTREAM_REQUESTS, MetricType::Counter)?;
        let all = (1..CLASSES.len()).map(|index| self.class(index)).sum::<u64>();
        ConstCounter::new(all).encode(family.encode_family(&labels)?)?;
        let mut family = describe(encoder, names::DOWNSTREAM_CLASSES, MetricType::Unknown)?;
        for (index, class) in ENVOY_CLASSES {
            let labels = [names::MANAGER, (names::CLASS_LABEL, class)];
            envoy_class(self.class(index)).encode(family.encode_family(&labels)?)?;
        }
        let mut family = describe(encoder, names::DOWNSTREAM_ACTIVE, MetricType::Gauge)?;
        ConstGauge::new(self.gauge(Gauge::RequestsActive)).encode(family.encode_family(&labels)?)?;
        let mut family = describe(encoder, names::DOWNSTREAM_CONNECTIONS, MetricType::Counter)?;
        let all = self.counter(Counter::DownstreamConnections);
        ConstCounter::new(all).encode(family.encode_family(&labels)?)?;
        let mut family = describe(encoder, names::DOWNSTREAM_OPEN, MetricType::Gauge)?;
        ConstGauge::new(self.gauge(Gauge::DownstreamOpen)).encode(family.encode_family(&labels)?)
    }

    fn cluster_requests(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let class = |slabs: &[Arc<ClusterSlab>], index| {
            slabs.iter().map(|slab| loaded(&slab.classes, index)).sum::<u64>()
        };
        let mut family = describe(encoder, names::CLUSTER_REQUESTS, MetricType::Counter)?;
        for (name, slabs) in &self.clusters {
            let all = (0..CLASSES.len()).map(|index| class(slabs, index)).sum::<u64>();
            ConstCounter::new(all).encode(family.encode_family(&[(names::CLUSTER_LABEL, &**name)])?)?;
        }
        let mut family = describe(encoder, names::CLUSTER_CLASSES, MetricType::Unknown)?;
        for (name, slabs) in &self.clusters {
            for (index, text) in ENVOY_CLASSES {
                let count = class(slabs, index);
                if count > 0 {
                    let labels = [(names::CLUSTER_LABEL, &**name), (names::CLASS_LABEL, text)];
                    envoy_class(count).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }

    fn cluster_latency(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family = describe(encoder, names::CLUSTER_TIME, MetricType::Histogram)?;
        for (name, slabs) in &self.clusters {
            let count = |index| slabs.iter().map(|slab| loaded(&slab.buckets, index)).sum::<u64>();
            let (counts, total) = buckets(BUCKETS_MS.iter().map(|bound| float(*bound)), count);
            let sum = slabs.iter().map(|slab| slab.sum_us.load(Relaxed)).sum::<u64>();
            let labels = [(names::CLUSTER_LABEL, &**name)];
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                float(sum) / 1e3,
                total,
                &counts,
                None,
            )?;
        }
        Ok(())
    }
}
