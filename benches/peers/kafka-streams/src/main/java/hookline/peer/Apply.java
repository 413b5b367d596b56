//! What is decided of each record of the log: a repeat is dropped; an event that comes before its predecessor is held
//! until that has come; the others go to the output with their key, headers and body.

package hookline.peer;

import static java.nio.charset.StandardCharsets.UTF_8;

import java.nio.ByteBuffer;
import java.util.Arrays;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.Headers;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.WindowStore;

/** Deduplication by id within a window, then sequence by entity, from 1. */
final class Apply implements Processor<byte[], byte[], byte[], byte[]> {
    /** The store of the ids that were seen, by source and id. */
    static final String IDS = "ids";
    /** The store of the entities: of each its {@link Place}, and its held events. */
    static final String ENTITIES = "entities";

    private static final byte[] NOTHING = new byte[0];
    /** Hookline's own records in the log have types that start so. */
    private static final byte[] CONTROL = "hookline.control.".getBytes(UTF_8);

    private ProcessorContext<byte[], byte[]> context;
    private WindowStore<byte[], byte[]> ids;
    private KeyValueStore<byte[], byte[]> entities;

    /** Where an entity is: the number that comes next, and how many events are held that come later. */
    private record Place(long next, int held) {
        static Place read(byte[] bytes) {
            if (bytes == null) {
                return new Place(1, 0);
            }
            ByteBuffer buffer = ByteBuffer.wrap(bytes);
            return new Place(buffer.getLong(), buffer.getInt());
        }

        byte[] written() {
            return ByteBuffer.allocate(Long.BYTES + Integer.BYTES).putLong(next).putInt(held).array();
        }
    }

    @Override
    public void init(ProcessorContext<byte[], byte[]> context) {
        this.context = context;
        ids = context.getStateStore(IDS);
        entities = context.getStateStore(ENTITIES);
    }

    @Override
    public void process(Record<byte[], byte[]> record) {
        Headers headers = record.headers();
        if (startsWith(value(headers, "ce_type"), CONTROL)) {
            return;
        }
        if (isRepeat(idKey(headers), record.timestamp())) {
            return;
        }
        long sequence = Long.parseLong(new String(value(headers, "ce_sequence"), UTF_8));
        byte[] entity = record.key();
        Place place = Place.read(entities.get(entity));
        if (sequence < place.next) {
            return;
        }
        if (sequence > place.next) {
            entities.put(heldKey(entity, sequence), HeldEvent.write(record));
            entities.put(entity, new Place(place.next, place.held + 1).written());
            return;
        }
        context.forward(record);
        place = released(entity, new Place(place.next + 1, place.held));
        entities.put(entity, place.written());
    }

    /**
     * Whether the id was seen within the window; if not, it is from now on. An id stands under the half of a window in
     * which it came: three look-ups by key, each past a Bloom filter, cost less than one iterator over the window.
     */
    private boolean isRepeat(byte[] id, long time) {
        long half = Main.HALF_WINDOW.toMillis();
        long begin = time - time % half;
        for (int back = 0; back <= 2; back++) {
            if (ids.fetch(id, begin - back * half) != null) {
                return true;
            }
        }
        ids.put(id, NOTHING, begin);
        return false;
    }

    /** Forwards the held events whose turn it is. */
    private Place released(byte[] entity, Place place) {
        while (place.held > 0) {
            byte[] held = entities.delete(heldKey(entity, place.next));
            if (held == null) {
                break;
            }
            context.forward(HeldEvent.read(entity, held));
            place = new Place(place.next + 1, place.held - 1);
        }
        return place;
    }

    /** The source, which contains the connection, and the id. */
    private static byte[] idKey(Headers headers) {
        byte[] source = value(headers, "ce_source");
        byte[] id = value(headers, "ce_id");
        return ByteBuffer.allocate(source.length + 1 + id.length).put(source).put((byte) 0).put(id).array();
    }

    /** Behind the entity's key, so that a held event stands near its entity. */
    private static byte[] heldKey(byte[] entity, long sequence) {
        return ByteBuffer.allocate(entity.length + 1 + Long.BYTES)
                .put(entity)
                .put((byte) 0)
                .putLong(sequence)
                .array();
    }

    private static byte[] value(Headers headers, String name) {
        Header header = headers.lastHeader(name);
        if (header == null) {
            throw new IllegalArgumentException("a record of the log has no header " + name);
        }
        return header.value();
    }

    private static boolean startsWith(byte[] text, byte[] start) {
        return text.length >= start.length
                && Arrays.equals(text, 0, start.length, start, 0, start.length);
    }
}
