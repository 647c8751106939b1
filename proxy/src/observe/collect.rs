//! Summing the workers' slabs at scrape, in the Prometheus text format.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::{BUCKETS_US, Counter, ExtraGauge, Gauge, Observe, Slab};

/// The whole text.
pub(super) fn render(observe: &Observe) -> String {
    let mut registry = Registry::default();
    let slabs = observe.slabs.lock().clone();
    let extras = observe.extras.lock().iter().map(read).collect();
    registry.register_collector(Box::new(Scrape { slabs, extras }));
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _a_string_takes_everything = encode(&mut text, &registry);
    text
}

type Series = (Vec<(&'static str, String)>, f64);

fn read(gauge: &ExtraGauge) -> (&'static str, &'static str, Vec<Series>) {
    (gauge.name, gauge.help, (gauge.read)())
}

#[derive(Debug)]
struct Scrape {
    slabs: Vec<Arc<Slab>>,
    extras: Vec<(&'static str, &'static str, Vec<Series>)>,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (counter, name) in Counter::ALL {
            let total: u64 =
                self.sum(|slab| slab.counters.get(*counter as usize).map_or(0, |cell| cell.load(Relaxed)));
            let metric = encoder.encode_descriptor(name, "Events of this kind", None, MetricType::Counter)?;
            ConstCounter::new(total).encode(metric)?;
        }
        for (gauge, name) in Gauge::ALL {
            let total: i64 = self
                .slabs
                .iter()
                .filter_map(|slab| slab.gauges.get(*gauge as usize))
                .map(|cell| cell.load(Relaxed))
                .sum();
            let metric = encoder.encode_descriptor(name, "Present number", None, MetricType::Gauge)?;
            ConstGauge::new(total).encode(metric)?;
        }
        self.requests(&mut encoder)?;
        self.latency(&mut encoder)?;
        self.workers(&mut encoder)?;
        for (name, help, series) in &self.extras {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (labels, value) in series {
                ConstGauge::new(*value).encode(family.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

impl Scrape {
    fn sum(&self, read: impl Fn(&Slab) -> u64) -> u64 {
        self.slabs.iter().map(|slab| read(slab)).sum()
    }

    fn requests(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "selvedge_requests",
            "Finished requests and connections by status class",
            None,
            MetricType::Counter,
        )?;
        for (index, class) in ["none", "1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().enumerate() {
            let total = self.sum(|slab| slab.classes.get(index).map_or(0, |cell| cell.load(Relaxed)));
            ConstCounter::new(total).encode(family.encode_family(&[("class", class)])?)?;
        }
        let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
        for slab in &self.slabs {
            for (reason, count) in slab.reasons.lock().iter() {
                *reasons.entry(reason.code().to_owned()).or_default() += count;
            }
        }
        let mut family = encoder.encode_descriptor(
            "selvedge_failures",
            "Finished requests and connections by reason, other than ok",
            None,
            MetricType::Counter,
        )?;
        for (reason, count) in reasons {
            ConstCounter::new(count).encode(family.encode_family(&[("reason", reason)])?)?;
        }
        Ok(())
    }

    fn latency(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut metric = encoder.encode_descriptor(
            "selvedge_request_duration_seconds",
            "From the head of the request to the end of the response",
            None,
            MetricType::Histogram,
        )?;
        #[allow(
            clippy::cast_precision_loss,
            reason = "microseconds of a process's life fit a double's 52 bits"
        )]
        let seconds = |us: u64| us as f64 / 1e6;
        let counts: Vec<(f64, u64)> = BUCKETS_US
            .iter()
            .map(|bound| seconds(*bound))
            .chain([f64::MAX])
            .enumerate()
            .map(|(index, bound)| {
                (bound, self.sum(|slab| slab.buckets.get(index).map_or(0, |cell| cell.load(Relaxed))))
            })
            .collect();
        let total = counts.iter().map(|(_, count)| count).sum();
        let sum = seconds(self.sum(|slab| slab.latency_sum_us.load(Relaxed)));
        metric.encode_histogram::<NoLabelSet>(sum, total, &counts, None)
    }

    fn workers(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "selvedge_worker_loop_lag_us",
            "How late each worker's timer last was, in microseconds",
            None,
            MetricType::Gauge,
        )?;
        for (index, slab) in self.slabs.iter().enumerate() {
            let lag = i64::try_from(slab.loop_lag_us.load(Relaxed)).unwrap_or(i64::MAX);
            ConstGauge::new(lag).encode(family.encode_family(&[("worker", index.to_string())])?)?;
        }
        Ok(())
    }
}
