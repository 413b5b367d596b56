//! RocksDB's memory: one cache and one budget of write buffers for all stores, as Kafka Streams' manual advises, since
//! each store of each partition would have 50 MB and more of its own otherwise.

package hookline.peer;

import java.util.Map;
import org.apache.kafka.streams.state.RocksDBConfigSetter;
import org.rocksdb.BlockBasedTableConfig;
import org.rocksdb.BloomFilter;
import org.rocksdb.Cache;
import org.rocksdb.LRUCache;
import org.rocksdb.Options;
import org.rocksdb.RocksDB;
import org.rocksdb.WriteBufferManager;

/** Settings of each store. */
public final class BoundedMemory implements RocksDBConfigSetter {
    static {
        RocksDB.loadLibrary();
    }

    private static final long CACHE_BYTES = 256L << 20;
    private static final long WRITE_BUFFERS_BYTES = 128L << 20;
    private static final Cache CACHE = new LRUCache(CACHE_BYTES);
    private static final WriteBufferManager WRITE_BUFFERS = new WriteBufferManager(WRITE_BUFFERS_BYTES, CACHE);

    private final BloomFilter filter = new BloomFilter();

    @Override
    public void setConfig(String store, Options options, Map<String, Object> configs) {
        BlockBasedTableConfig table = (BlockBasedTableConfig) options.tableFormatConfig();
        table.setBlockCache(CACHE);
        table.setCacheIndexAndFilterBlocks(true);
        table.setCacheIndexAndFilterBlocksWithHighPriority(true);
        table.setPinTopLevelIndexAndFilter(true);
        table.setFilterPolicy(filter);
        options.setTableFormatConfig(table);
        options.setWriteBufferManager(WRITE_BUFFERS);
    }

    @Override
    public void close(String store, Options options) {
        filter.close();
    }
}
