import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.QueryableStoreTypes;

/**
 * Counts usage events and adds up their units, by API key, exactly once, until everything in the topic is committed.
 *
 * <p>Arguments: broker, topic, application id, threads, state directory. Prints one JSON object. The clock runs from
 * the first record that is processed to the moment the group's committed offsets are the topic's ends.
 */
public final class Count {
    private static final JsonFactory JSON = new JsonFactory();

    /** Events, requests, input tokens and output tokens of one key. */
    private record Sums(long events, long requests, long inputTokens, long outputTokens) {
        Sums plus(Sums other) {
            return new Sums(
                    events + other.events,
                    requests + other.requests,
                    inputTokens + other.inputTokens,
                    outputTokens + other.outputTokens);
        }

        byte[] bytes() {
            return ByteBuffer.allocate(32)
                    .putLong(events)
                    .putLong(requests)
                    .putLong(inputTokens)
                    .putLong(outputTokens)
                    .array();
        }

        static Sums of(byte[] bytes) {
            ByteBuffer buffer = ByteBuffer.wrap(bytes);
            return new Sums(buffer.getLong(), buffer.getLong(), buffer.getLong(), buffer.getLong());
        }
    }

    public static void main(String[] words) throws Exception {
        String broker = words[0];
        String topic = words[1];
        String application = words[2];
        Properties settings = new Properties();
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, broker);
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, application);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, words[3]);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, words[4]);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");

        AtomicLong began = new AtomicLong();
        Serde<Sums> serde = Serdes.serdeFrom((name, sums) -> sums.bytes(), (name, bytes) -> Sums.of(bytes));
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(topic, Consumed.with(Serdes.String(), Serdes.ByteArray()))
                .groupByKey()
                .aggregate(
                        () -> new Sums(0, 0, 0, 0),
                        (key, event, sums) -> {
                            if (began.get() == 0) {
                                began.compareAndSet(0, System.nanoTime());
                            }
                            return sums.plus(read(event));
                        },
                        Materialized.<String, Sums, KeyValueStore<Bytes, byte[]>>as("sums")
                                .withKeySerde(Serdes.String())
                                .withValueSerde(serde));

        try (KafkaStreams streams = new KafkaStreams(builder.build(), settings);
                Admin admin = Admin.create(Map.of("bootstrap.servers", broker))) {
            streams.start();
            Map<TopicPartition, Long> ends = ends(admin, topic);
            while (!isCommitted(admin, application, ends)) {
                Thread.sleep(20);
            }
            double seconds = (System.nanoTime() - began.get()) / 1e9;
            Sums total = new Sums(0, 0, 0, 0);
            int keys = 0;
            var query = StoreQueryParameters.fromNameAndType("sums", QueryableStoreTypes.<String, Sums>keyValueStore());
            try (KeyValueIterator<String, Sums> rows = streams.store(query).all()) {
                while (rows.hasNext()) {
                    total = total.plus(rows.next().value);
                    keys++;
                }
            }
            System.out.printf(
                    "{\"seconds\": %.3f, \"events\": %d, \"keys\": %d, \"input_tokens\": %d, \"output_tokens\": %d}%n",
                    seconds, total.events, keys, total.inputTokens, total.outputTokens);
        }
    }

    private static Map<TopicPartition, Long> ends(Admin admin, String topic) throws Exception {
        var partitions = admin.describeTopics(java.util.List.of(topic)).allTopicNames().get().get(topic).partitions();
        Map<TopicPartition, OffsetSpec> wanted = partitions.stream()
                .collect(Collectors.toMap(p -> new TopicPartition(topic, p.partition()), p -> OffsetSpec.latest()));
        return admin.listOffsets(wanted).all().get().entrySet().stream()
                .collect(Collectors.toMap(Map.Entry::getKey, entry -> entry.getValue().offset()));
    }

    private static boolean isCommitted(Admin admin, String group, Map<TopicPartition, Long> ends) throws Exception {
        try {
            var committed = admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
            return ends.entrySet().stream()
                    .allMatch(end -> {
                        var offset = committed.get(end.getKey());
                        return end.getValue() == 0 || (offset != null && offset.offset() >= end.getValue());
                    });
        } catch (java.util.concurrent.ExecutionException error) {
            return false; // the group is not there yet
        }
    }

    private static Sums read(byte[] event) {
        long requests = 0;
        long input = 0;
        long output = 0;
        try (JsonParser parser = JSON.createParser(event)) {
            boolean inUnits = false;
            for (JsonToken token = parser.nextToken(); token != null; token = parser.nextToken()) {
                if (token == JsonToken.FIELD_NAME && parser.currentName().equals("units")) {
                    inUnits = true;
                } else if (token == JsonToken.END_OBJECT) {
                    inUnits = false;
                } else if (inUnits && token == JsonToken.VALUE_NUMBER_INT) {
                    switch (parser.currentName()) {
                        case "requests" -> requests = parser.getLongValue();
                        case "input_tokens" -> input = parser.getLongValue();
                        case "output_tokens" -> output = parser.getLongValue();
                        default -> { }
                    }
                }
            }
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
        return new Sums(1, requests, input, output);
    }
}
