//! The size of the store, read from memory during a scrape.

use crisp_metrics::Metrics;
use crisp_metrics::prometheus::core::{Collector, Desc};
use crisp_metrics::prometheus::proto::MetricFamily;
use crisp_metrics::prometheus::{self, IntGauge, Opts};

use super::Store;

struct Size {
    store: Store,
    images: IntGauge,
    bytes: IntGauge,
    inodes: IntGauge,
}

impl Store {
    /// Registers the metrics of the store's size.
    pub(crate) fn register_metrics(&self, metrics: &Metrics) -> Result<(), prometheus::Error> {
        let gauge = |name: &str, help: &str| IntGauge::with_opts(Opts::new(name, help));
        metrics.register(Box::new(Size {
            store: self.clone(),
            images: gauge("crisp_image_store_images", "Images in the store.")?,
            bytes: gauge("crisp_image_store_bytes", "Bytes of unpacked layers in the store.")?,
            inodes: gauge("crisp_image_store_inodes", "Files and folders of unpacked layers in the store.")?,
        }))
    }
}

impl Collector for Size {
    fn desc(&self) -> Vec<&Desc> {
        [&self.images, &self.bytes, &self.inodes].into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let usage = self.store.usage();
        self.images.set(i64::try_from(self.store.list().len()).unwrap_or(i64::MAX));
        self.bytes.set(usage.bytes.cast_signed());
        self.inodes.set(usage.inodes.cast_signed());
        [&self.images, &self.bytes, &self.inodes].into_iter().flat_map(Collector::collect).collect()
    }
}
