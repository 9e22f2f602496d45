import java.util.concurrent.atomic.AtomicLong;
import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.api.connector.sink2.SinkWriter;
import org.apache.flink.api.connector.sink2.WriterInitContext;
import org.apache.flink.table.data.RowData;

/** Drops rows as Flink's blackhole does, but counts them: a job that loses results must not look fast. */
public final class CountingSink implements Sink<RowData> {
    static final AtomicLong ROWS = new AtomicLong();

    @Override
    public SinkWriter<RowData> createWriter(WriterInitContext context) {
        return new Writer();
    }

    private static final class Writer implements SinkWriter<RowData> {
        private long rows;

        @Override
        public void write(RowData row, Context context) {
            rows++;
        }

        @Override
        public void flush(boolean endOfInput) {}

        @Override
        public void close() {
            ROWS.addAndGet(rows);
        }
    }
}
