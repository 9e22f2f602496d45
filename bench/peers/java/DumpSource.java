import static java.nio.file.StandardOpenOption.READ;
import static java.nio.file.StandardOpenOption.WRITE;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import org.apache.flink.api.connector.source.Boundedness;
import org.apache.flink.api.connector.source.ReaderOutput;
import org.apache.flink.api.connector.source.Source;
import org.apache.flink.api.connector.source.SourceReader;
import org.apache.flink.api.connector.source.SourceReaderContext;
import org.apache.flink.api.connector.source.SourceSplit;
import org.apache.flink.api.connector.source.SplitEnumerator;
import org.apache.flink.api.connector.source.SplitEnumeratorContext;
import org.apache.flink.core.io.InputStatus;
import org.apache.flink.core.io.SimpleVersionedSerializer;
import org.apache.flink.core.memory.MemorySegment;
import org.apache.flink.core.memory.MemorySegmentFactory;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.data.TimestampData;
import org.apache.flink.table.data.binary.BinaryStringData;

/**
 * Rows (key, ts, value) from a memory-mapped columnar dump: the cheapest source that Flink can be given.
 *
 * <p>Keys are not copied: a row's string points into the mapped file. Blocks of 1,000 rows are dealt to the subtasks in
 * turn. Streams longer than the dump are the same rows again, as many milliseconds later as the dump has rows.
 */
public final class DumpSource implements Source<RowData, DumpSource.Share, Void> {
    private static final int BLOCK_ROWS = 1_000;
    private static final int HEADER_BYTES = 16;

    private final String path;
    private final long events;

    public DumpSource(String path, long events) {
        this.path = path;
        this.events = events;
    }

    /** What one subtask reads: every {@code of}-th block from block {@code index} on. */
    public record Share(int index, int of) implements SourceSplit {
        @Override
        public String splitId() {
            return index + "/" + of;
        }
    }

    @Override
    public Boundedness getBoundedness() {
        return Boundedness.BOUNDED;
    }

    @Override
    public SourceReader<RowData, Share> createReader(SourceReaderContext context) {
        return new Reader(path, events);
    }

    @Override
    public SplitEnumerator<Share, Void> createEnumerator(SplitEnumeratorContext<Share> context) {
        return new Dealer(context);
    }

    @Override
    public SplitEnumerator<Share, Void> restoreEnumerator(SplitEnumeratorContext<Share> context, Void nothing) {
        return new Dealer(context);
    }

    @Override
    public SimpleVersionedSerializer<Share> getSplitSerializer() {
        return new ShareSerializer();
    }

    @Override
    public SimpleVersionedSerializer<Void> getEnumeratorCheckpointSerializer() {
        return new NothingSerializer();
    }

    private record Dealer(SplitEnumeratorContext<Share> context) implements SplitEnumerator<Share, Void> {
        @Override
        public void start() {}

        @Override
        public void handleSplitRequest(int subtask, String host) {}

        @Override
        public void addSplitsBack(List<Share> shares, int subtask) {
            throw new UnsupportedOperationException("a benchmark's job is not recovered");
        }

        @Override
        public void addReader(int subtask) {
            context.assignSplit(new Share(subtask, context.currentParallelism()), subtask);
            context.signalNoMoreSplits(subtask);
        }

        @Override
        public Void snapshotState(long checkpoint) {
            return null;
        }

        @Override
        public void close() {}
    }

    private static final class Reader implements SourceReader<RowData, Share> {
        private final long events;
        private final MemorySegment file;
        private final MemorySegment[] files;
        private final int rows;
        private final int times;
        private final int values;
        private final int keys;
        private final CompletableFuture<Void> assigned = new CompletableFuture<>();
        private Share share;
        private long block;

        Reader(String path, long events) {
            this.events = events;
            // Mapped copy-on-write, though nothing writes: Flink does not wrap a read-only buffer.
            try (FileChannel channel = FileChannel.open(Path.of(path), READ, WRITE)) {
                file = MemorySegmentFactory.wrapOffHeapMemory(channel.map(FileChannel.MapMode.PRIVATE, 0, channel.size()));
            } catch (IOException error) {
                throw new IllegalStateException(path, error);
            }
            files = new MemorySegment[] {file};
            rows = (int) file.getLongLittleEndian(0);
            times = HEADER_BYTES + 4 * rows;
            values = times + 8 * rows;
            keys = values + 8 * rows;
        }

        private int keyEnd(int row) {
            return row < 0 ? 0 : file.getIntLittleEndian(HEADER_BYTES + 4 * row);
        }

        @Override
        public void start() {}

        @Override
        public InputStatus pollNext(ReaderOutput<RowData> output) {
            if (share == null) {
                return InputStatus.NOTHING_AVAILABLE;
            }
            long start = block * BLOCK_ROWS;
            if (start >= events) {
                return InputStatus.END_OF_INPUT;
            }
            long end = Math.min(start + BLOCK_ROWS, events);
            for (long i = start; i < end; i++) {
                int row = (int) (i % rows);
                int from = keyEnd(row - 1);
                output.collect(GenericRowData.of(
                        BinaryStringData.fromAddress(files, keys + from, keyEnd(row) - from),
                        TimestampData.fromEpochMillis(file.getLongLittleEndian(times + 8 * row) + i - row),
                        file.getDoubleLittleEndian(values + 8 * row)));
            }
            block += share.of();
            return InputStatus.MORE_AVAILABLE;
        }

        @Override
        public void addSplits(List<Share> shares) {
            share = shares.get(0);
            block = share.index();
            assigned.complete(null);
        }

        @Override
        public CompletableFuture<Void> isAvailable() {
            return assigned;
        }

        @Override
        public List<Share> snapshotState(long checkpoint) {
            return List.of();
        }

        @Override
        public void notifyNoMoreSplits() {}

        @Override
        public void close() {}
    }

    private static final class ShareSerializer implements SimpleVersionedSerializer<Share> {
        @Override
        public int getVersion() {
            return 1;
        }

        @Override
        public byte[] serialize(Share share) {
            return ByteBuffer.allocate(8).putInt(share.index()).putInt(share.of()).array();
        }

        @Override
        public Share deserialize(int version, byte[] bytes) {
            ByteBuffer buffer = ByteBuffer.wrap(bytes);
            return new Share(buffer.getInt(), buffer.getInt());
        }
    }

    private static final class NothingSerializer implements SimpleVersionedSerializer<Void> {
        @Override
        public int getVersion() {
            return 1;
        }

        @Override
        public byte[] serialize(Void nothing) {
            return new byte[0];
        }

        @Override
        public Void deserialize(int version, byte[] bytes) {
            return null;
        }
    }
}
