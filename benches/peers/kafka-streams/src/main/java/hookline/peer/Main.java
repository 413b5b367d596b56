//! A Kafka Streams application that does what Hookline's processor does with a Kafka sink: removes repeats, puts each
//! entity's events in their order, and writes each once. Started by the benchmarks, which compare the two.
//!
//! Arguments: `input=TOPIC output=TOPIC`, and settings of Kafka Streams by their own names, such as
//! `application.id=… bootstrap.servers=… state.dir=… commit.interval.ms=100 num.stream.threads=2`.

package hookline.peer;

import java.io.IOException;
import java.io.StringReader;
import java.time.Duration;
import java.util.Properties;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.state.Stores;

/** The topology and its settings. */
public final class Main {
    /** Ids are remembered for two to three of these, by the log's time: for at least 7 days, as Hookline's are. */
    static final Duration HALF_WINDOW = Duration.ofHours(84);

    private static final Duration CLOSE_TIMEOUT = Duration.ofSeconds(30);

    private Main() {}

    /** Runs until SIGTERM. Says "running" when it has its partitions. */
    public static void main(String[] args) throws IOException {
        Properties settings = settings();
        settings.load(new StringReader(String.join("\n", args)));
        KafkaStreams streams =
                new KafkaStreams(topology(take(settings, "input"), take(settings, "output")), settings);
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.RUNNING) {
                System.out.println("running");
            }
        });
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            return StreamThreadExceptionResponse.SHUTDOWN_APPLICATION;
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(CLOSE_TIMEOUT)));
        streams.start();
    }

    private static Topology topology(String input, String output) {
        var ids = Stores.windowStoreBuilder(
                Stores.persistentWindowStore(Apply.IDS, HALF_WINDOW.multipliedBy(3), HALF_WINDOW, false),
                Serdes.ByteArray(),
                Serdes.ByteArray());
        // Cached: an entity that changes often is written to RocksDB and to the changelog once a commit.
        var entities = Stores.keyValueStoreBuilder(
                        Stores.persistentKeyValueStore(Apply.ENTITIES), Serdes.ByteArray(), Serdes.ByteArray())
                .withCachingEnabled();
        return new Topology()
                .addSource("log", new ByteArrayDeserializer(), new ByteArrayDeserializer(), input)
                .addProcessor("apply", Apply::new, "log")
                .addStateStore(ids, "apply")
                .addStateStore(entities, "apply")
                .addSink("applied", output, new ByteArraySerializer(), new ByteArraySerializer(), "apply");
    }

    /** What the arguments may change. */
    private static Properties settings() {
        Properties settings = new Properties();
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, "67108864");
        settings.put(StreamsConfig.ROCKSDB_CONFIG_SETTER_CLASS_CONFIG, BoundedMemory.class.getName());
        settings.put(StreamsConfig.mainConsumerPrefix("max.poll.records"), "5000");
        settings.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, "5000");
        settings.put(StreamsConfig.producerPrefix("compression.type"), "lz4");
        settings.put(StreamsConfig.producerPrefix("batch.size"), "262144");
        return settings;
    }

    private static String take(Properties settings, String name) {
        if (settings.remove(name) instanceof String value) {
            return value;
        }
        throw new IllegalArgumentException("the argument " + name + "=… is missing");
    }
}
