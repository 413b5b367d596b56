//! Writes to a topic as any other program would: garbage, or records that the product should read.

use std::time::Duration;

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, FutureProducer, FutureRecord, Producer};

use crate::kafka::{block_on, client_config};
use crate::kafka_read::end_offsets;

/// A record to write; `..Default::default()` leaves the rest empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewRecord<'a> {
    /// The partition; none leaves it to the key.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The headers, in their order.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The value.
    pub value: Option<&'a [u8]>,
}

/// Appends `records` in this order and waits for every acknowledgement (idempotent, all replicas).
/// Returns partition and offset of each.
///
/// # Panics
/// When one is not acknowledged.
pub fn produce(bootstrap: &str, topic: &str, records: &[NewRecord<'_>]) -> Vec<(i32, i64)> {
    let producer: FutureProducer = client_config(bootstrap)
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .create()
        .expect("a producer");
    let sends: Vec<_> = records
        .iter()
        .map(|record| {
            let mut headers = OwnedHeaders::new();
            for (key, value) in record.headers {
                headers = headers.insert(Header { key, value: Some(*value) });
            }
            let mut message = FutureRecord::to(topic).headers(headers);
            message.partition = record.partition;
            message.key = record.key;
            message.payload = record.value;
            producer.send_result(message).unwrap_or_else(|(error, _)| panic!("{topic}: not sent: {error}"))
        })
        .collect();
    sends
        .into_iter()
        .map(|send| {
            let delivery = block_on(send).expect("the producer's answer");
            let delivery = delivery.unwrap_or_else(|(error, _)| panic!("{topic}: not appended: {error}"));
            (delivery.partition, delivery.offset)
        })
        .collect()
}

/// A transaction of some other program, with three records in each partition of a topic. No reader sees what comes
/// after them until [`OpenTransaction::abort`].
pub struct OpenTransaction(BaseProducer);

impl OpenTransaction {
    /// How long a request may take.
    const TIME_LIMIT: Duration = Duration::from_secs(30);

    /// Begins it, and writes.
    ///
    /// # Panics
    /// When the broker refuses.
    #[must_use]
    pub fn begin(bootstrap: &str, topic: &str) -> Self {
        let producer: BaseProducer = client_config(bootstrap)
            .set("transactional.id", format!("another-program-{topic}"))
            .create()
            .expect("a producer");
        producer.init_transactions(Self::TIME_LIMIT).expect("a transactional id");
        producer.begin_transaction().expect("a transaction");
        for partition in end_offsets(bootstrap, topic).into_keys() {
            for _ in 0..3 {
                let record = BaseRecord::<(), [u8]>::to(topic).partition(partition).payload(b"aborted");
                producer.send(record).unwrap_or_else(|(error, _)| panic!("{topic}: not sent: {error}"));
            }
        }
        producer.flush(Self::TIME_LIMIT).expect("acknowledgements");
        Self(producer)
    }

    /// Aborts it: it leaves a hole.
    ///
    /// # Panics
    /// When the broker refuses.
    pub fn abort(self) {
        self.0.abort_transaction(Self::TIME_LIMIT).expect("an end");
    }
}
