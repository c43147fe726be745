import com.google.protobuf.CodedInputStream;
import com.google.protobuf.CodedOutputStream;
import com.google.protobuf.WireFormat;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.InsecureServerCredentials;
import io.grpc.MethodDescriptor;
import io.grpc.Server;
import io.grpc.ServerServiceDefinition;
import io.grpc.Status;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.ServerCalls;
import io.grpc.xds.XdsServerBuilder;
import io.grpc.xds.XdsChannelCredentials;
import io.grpc.xds.XdsServerCredentials;
import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * Our Echo with gRPC for Java, for tests/interop/grpc_clients.py: a client whose target, or a
 * server whose listener, comes over xDS. grpc_process.py says what stands in the lines.
 *
 * <pre>
 * java -cp … Echo call TARGET
 * java -cp … Echo serve ADDRESS
 * </pre>
 */
public final class Echo {
  /**
   * A request or a reply, which has an endpoint: what is used of proto/portolan/demo/v1/echo.proto,
   * without a generator to install.
   */
  private record Said(String text, String endpoint) {}

  private static final MethodDescriptor<Said, Said> SAY =
      MethodDescriptor.<Said, Said>newBuilder()
          .setType(MethodDescriptor.MethodType.UNARY)
          .setFullMethodName("portolan.demo.v1.Echo/Say")
          .setRequestMarshaller(new SaidMarshaller())
          .setResponseMarshaller(new SaidMarshaller())
          .build();

  /** How long after its deadline a call is taken for lost. */
  private static final long PAST_DEADLINE_MILLIS = 1000;

  private static final BufferedReader LINES =
      new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));

  public static void main(String[] args) throws IOException, InterruptedException {
    if (args[0].equals("serve")) {
      serve(args[1]);
    } else {
      call(args[1]);
    }
    // A watch on a control plane never ends by itself.
    System.exit(0);
  }

  /** Makes a call for each line. */
  private static void call(String target) throws IOException, InterruptedException {
    // As the control plane has it, and in the clear where that says nothing.
    ChannelCredentials clear = InsecureChannelCredentials.create();
    ChannelCredentials credentials =
        target.startsWith("xds:") ? XdsChannelCredentials.create(clear) : clear;
    Channel channel = Grpc.newChannelBuilder(target, credentials).build();
    tellPeer();
    for (String line = LINES.readLine(); line != null; line = LINES.readLine()) {
      String[] words = line.split(" ");
      long limitMillis = Long.parseLong(words[1]);
      CallOptions options =
          CallOptions.DEFAULT.withDeadlineAfter(limitMillis, TimeUnit.MILLISECONDS);
      say(channel, words[0].equals("wait") ? options.withWaitForReady() : options, limitMillis);
    }
  }

  /**
   * Makes one call and tells how it ended. Of some ten thousand calls one never ends, whatever its
   * deadline (grpc-java issue 12456, open with 1.85.1): this one is lost.
   */
  private static void say(Channel channel, CallOptions options, long limitMillis)
      throws InterruptedException {
    try {
      var call = channel.newCall(SAY, options);
      Said reply =
          ClientCalls.futureUnaryCall(call, new Said("ahoy", ""))
              .get(limitMillis + PAST_DEADLINE_MILLIS, TimeUnit.MILLISECONDS);
      tell("text", reply.text(), "endpoint", reply.endpoint());
    } catch (ExecutionException error) {
      Status status = Status.fromThrowable(error.getCause());
      tell("code", status.getCode().name(), "message", status.getDescription());
    } catch (TimeoutException error) {
      tell("lost", "no outcome " + PAST_DEADLINE_MILLIS + " ms after the deadline");
    }
  }

  /** Serves until its input ends. */
  private static void serve(String address) throws IOException {
    int port = Integer.parseInt(address.substring(address.lastIndexOf(':') + 1));
    ServerServiceDefinition echo =
        ServerServiceDefinition.builder("portolan.demo.v1.Echo")
            .addMethod(
                SAY,
                ServerCalls.asyncUnaryCall(
                    (request, answer) -> {
                      answer.onNext(new Said(request.text(), address));
                      answer.onCompleted();
                    }))
            .build();
    Server server =
        XdsServerBuilder.forPort(
                port, XdsServerCredentials.create(InsecureServerCredentials.create()))
            .addService(echo)
            .build();
    tellPeer();
    // It returns once there is a listener.
    server.start();
    while (LINES.readLine() != null) {}
    server.shutdownNow();
  }

  private static void tellPeer() {
    tell("peer", "io.grpc " + Channel.class.getPackage().getImplementationVersion());
  }

  /** Writes keys and values in turn as a line of JSON. */
  private static void tell(String... items) {
    var line = new StringBuilder("{");
    for (int i = 0; i < items.length; i += 2) {
      line.append(i == 0 ? "" : ",");
      line.append(quoted(items[i])).append(":").append(quoted(items[i + 1]));
    }
    System.out.println(line.append("}"));
  }

  private static String quoted(String text) {
    var quoted = new StringBuilder("\"");
    for (char c : (text == null ? "" : text).toCharArray()) {
      boolean plain = c >= ' ' && c <= '~' && c != '"' && c != '\\';
      quoted.append(plain ? String.valueOf(c) : String.format("\\u%04x", (int) c));
    }
    return quoted.append('"').toString();
  }

  private static final class SaidMarshaller implements MethodDescriptor.Marshaller<Said> {
    @Override
    public InputStream stream(Said said) {
      var bytes = new ByteArrayOutputStream();
      try {
        CodedOutputStream out = CodedOutputStream.newInstance(bytes);
        out.writeString(1, said.text());
        if (!said.endpoint().isEmpty()) {
          out.writeString(2, said.endpoint());
        }
        out.flush();
      } catch (IOException error) {
        throw new UncheckedIOException(error);
      }
      return new ByteArrayInputStream(bytes.toByteArray());
    }

    @Override
    public Said parse(InputStream stream) {
      String text = "";
      String endpoint = "";
      try {
        CodedInputStream in = CodedInputStream.newInstance(stream);
        for (int tag = in.readTag(); tag != 0; tag = in.readTag()) {
          if (tag == (1 << 3 | WireFormat.WIRETYPE_LENGTH_DELIMITED)) {
            text = in.readString();
          } else if (tag == (2 << 3 | WireFormat.WIRETYPE_LENGTH_DELIMITED)) {
            endpoint = in.readString();
          } else {
            in.skipField(tag);
          }
        }
      } catch (IOException error) {
        throw Status.INTERNAL.withCause(error).asRuntimeException();
      }
      return new Said(text, endpoint);
    }
  }
}
