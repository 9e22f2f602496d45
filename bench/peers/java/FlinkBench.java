import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.LocalDateTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.List;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.types.Row;
import org.apache.flink.util.CloseableIterator;

/**
 * Runs SQL jobs, each several times, in one JVM, so that all but the first run compiled code, and says when each began and ended.
 *
 * <p>Arguments: parallelism, where to write result rows (or "-"), then for each job how often to run it and its file of
 * statements, separated by blank lines. The last statement is the job: an INSERT that is timed, or a SELECT whose rows
 * are written out. Each run prints "span BEGAN ENDED ROWS": seconds of the system's monotonic clock and the rows that
 * reached the counting sink.
 */
public final class FlinkBench {
    private FlinkBench() {}

    public static void main(String[] arguments) throws Exception {
        int parallelism = Integer.parseInt(arguments[0]);
        for (int job = 2; job < arguments.length; job += 2) {
            String[] statements = Files.readString(Path.of(arguments[job + 1])).strip().split("\n\\s*\n");
            for (int run = 0; run < Integer.parseInt(arguments[job]); run++) {
                run(parallelism, statements, arguments[1]);
            }
        }
    }

    private static void run(int parallelism, String[] statements, String output) throws Exception {
        CountingSink.ROWS.set(0);
        long began = System.nanoTime();
        TableEnvironment environment = environment(parallelism);
        for (int i = 0; i < statements.length - 1; i++) {
            environment.executeSql(statements[i]);
        }
        String job = statements[statements.length - 1];
        if (output.equals("-")) {
            environment.executeSql(job).await();
        } else {
            write(environment.executeSql(job).collect(), Path.of(output));
        }
        System.out.printf("span %.9f %.9f %d%n", began / 1e9, System.nanoTime() / 1e9, CountingSink.ROWS.get());
    }

    private static TableEnvironment environment(int parallelism) {
        Configuration settings = new Configuration();
        settings.setString("parallelism.default", String.valueOf(parallelism));
        settings.setString("taskmanager.numberOfTaskSlots", String.valueOf(parallelism));
        settings.setString("taskmanager.memory.managed.size", "512m");
        settings.setString("state.backend.type", "hashmap");
        settings.setString("pipeline.object-reuse", "true");
        settings.setString("table.exec.mini-batch.enabled", "true");
        settings.setString("table.exec.mini-batch.allow-latency", "1 s");
        settings.setString("table.exec.mini-batch.size", "50000");
        settings.setString("table.local-time-zone", "UTC");
        return TableEnvironment.create(
                EnvironmentSettings.newInstance().inStreamingMode().withConfiguration(settings).build());
    }

    /** Rows as tab-separated lines, the row's kind first; times as milliseconds, doubles as they read back exactly. */
    private static void write(CloseableIterator<Row> rows, Path path) throws Exception {
        try (rows; PrintWriter file = new PrintWriter(Files.newBufferedWriter(path))) {
            while (rows.hasNext()) {
                Row row = rows.next();
                List<String> fields = new ArrayList<>(List.of(row.getKind().shortString()));
                for (int i = 0; i < row.getArity(); i++) {
                    fields.add(text(row.getField(i)));
                }
                file.println(String.join("\t", fields));
            }
        }
    }

    private static String text(Object value) {
        if (value instanceof LocalDateTime time) {
            return String.valueOf(time.toInstant(ZoneOffset.UTC).toEpochMilli());
        }
        return String.valueOf(value);
    }
}
