//! A held event as bytes: its time, its headers and its body. The key is its entity's.

package hookline.peer;

import static java.nio.charset.StandardCharsets.UTF_8;

import java.nio.ByteBuffer;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.streams.processor.api.Record;

/** Writes held events, and reads them again. */
final class HeldEvent {
    private HeldEvent() {}

    static byte[] write(Record<byte[], byte[]> record) {
        Header[] headers = record.headers().toArray();
        byte[][] names = new byte[headers.length][];
        int size = Long.BYTES + Integer.BYTES + record.value().length;
        for (int n = 0; n < headers.length; n++) {
            names[n] = headers[n].key().getBytes(UTF_8);
            size += 2 * Integer.BYTES + names[n].length + headers[n].value().length;
        }
        ByteBuffer bytes = ByteBuffer.allocate(size).putLong(record.timestamp()).putInt(headers.length);
        for (int n = 0; n < headers.length; n++) {
            put(bytes, names[n]);
            put(bytes, headers[n].value());
        }
        return bytes.put(record.value()).array();
    }

    static Record<byte[], byte[]> read(byte[] entity, byte[] held) {
        ByteBuffer bytes = ByteBuffer.wrap(held);
        long time = bytes.getLong();
        RecordHeaders headers = new RecordHeaders();
        for (int left = bytes.getInt(); left > 0; left--) {
            headers.add(new String(take(bytes, bytes.getInt()), UTF_8), take(bytes, bytes.getInt()));
        }
        return new Record<>(entity, take(bytes, bytes.remaining()), time, headers);
    }

    private static void put(ByteBuffer bytes, byte[] part) {
        bytes.putInt(part.length).put(part);
    }

    private static byte[] take(ByteBuffer bytes, int length) {
        byte[] part = new byte[length];
        bytes.get(part);
        return part;
    }
}
