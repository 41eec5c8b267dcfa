package otlp

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"kemi"
	"kemi/collectors/collectortest"
	"kemi/collectors/listen"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
)

// tokens knows one token.
type tokens struct{ permissions kemi.Permission }

func (a tokens) Authenticate(r *http.Request) (kemi.Identity, error) {
	if r.Header.Get("Authorization") != "Bearer secret" {
		return kemi.Identity{}, kemi.Errorf(kemi.ErrUnauthorized, "no identity")
	}
	id := kemi.Identity{Subject: "token:sdk", Project: "shop", Permissions: a.permissions}
	if p := r.Header.Get("X-Scope-Orgid"); p != "" {
		id.Project = p
	}
	return id, nil
}

func serveGRPC(t *testing.T, permissions kemi.Permission, change func(*Config)) (*collectortest.House, string) {
	t.Helper()
	h, r := open(t, func(c *Config) {
		c.GRPC.Listen = "127.0.0.1:0"
		if change != nil {
			change(c)
		}
	})
	s, err := r.NewServer(t.Context(), tokens{permissions}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return h, s.Addr().String()
}

func client(t *testing.T, addr string, creds credentials.TransportCredentials, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient(addr, append(opts, grpc.WithTransportCredentials(creds))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func withToken(t *testing.T, pairs ...string) context.Context {
	t.Helper()
	return metadata.AppendToOutgoingContext(t.Context(), append([]string{"authorization", "Bearer secret"}, pairs...)...)
}

func TestGRPC(t *testing.T) {
	h, addr := serveGRPC(t, kemi.MetricsWrite|kemi.LogsWrite, nil)
	conn := client(t, addr, insecure.NewCredentials())
	ms := pmetricotlp.NewGRPCClient(conn)
	for i, compress := range []string{"", "gzip", "zstd"} {
		var opts []grpc.CallOption
		if compress != "" {
			opts = append(opts, grpc.UseCompressor(compress))
		}
		resp, err := ms.Export(withToken(t, "x-scope-orgid", "blue"), pmetricotlp.NewExportRequestFromMetrics(request(allKinds)), opts...)
		if err != nil || resp.PartialSuccess().RejectedDataPoints() != 0 {
			t.Fatal(compress, err, resp.PartialSuccess().ErrorMessage())
		}
		if b := h.Batches(); len(b) != i+1 || b[i].Project != "blue" {
			t.Fatalf("%d batches, project %q", len(b), b[i].Project)
		}
	}
	resp, err := ms.Export(withToken(t), pmetricotlp.NewExportRequestFromMetrics(request(func(ms pmetric.MetricSlice) {
		ms.AppendEmpty().SetEmptyGauge().DataPoints().AppendEmpty()
	})))
	if err != nil || resp.PartialSuccess().RejectedDataPoints() != 1 || !strings.Contains(resp.PartialSuccess().ErrorMessage(), "neither") {
		t.Errorf("%v %v", err, resp.PartialSuccess().ErrorMessage())
	}

	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("service.name", "pay")
	lr := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	lr.SetTimestamp(ns(at))
	lr.Body().SetStr("결제 실패")
	old := rl.ScopeLogs().At(0).LogRecords().AppendEmpty()
	old.SetTimestamp(1)
	logs, err := plogotlp.NewGRPCClient(conn).Export(withToken(t), plogotlp.NewExportRequestFromLogs(ld))
	if err != nil || logs.PartialSuccess().RejectedLogRecords() != 1 {
		t.Fatal(err, logs.PartialSuccess().ErrorMessage())
	}
	rs := h.Records(bus.Logs)
	if len(rs) != 1 {
		t.Fatalf("%d records of logs", len(rs))
	}
	if got, err := codec.DecodeLogs(&rs[0]); err != nil || len(got) != 1 || got[0].Body != "결제 실패" || got[0].Stream.Get("service") != "pay" {
		t.Errorf("%v %v", got, err)
	}
}

func TestGRPCErrors(t *testing.T) {
	h, addr := serveGRPC(t, kemi.MetricsWrite, func(c *Config) { c.GRPC.MaxMessageBytes = 4096 })
	conn := client(t, addr, insecure.NewCredentials())
	ms := pmetricotlp.NewGRPCClient(conn)
	good := pmetricotlp.NewExportRequestFromMetrics(request(allKinds))
	expect := func(what string, err error, code codes.Code, text string) {
		t.Helper()
		if status.Code(err) != code || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, want %s", what, err, code)
		}
	}
	_, err := ms.Export(t.Context(), good)
	expect("no token", err, codes.Unauthenticated, "no identity")
	_, err = plogotlp.NewGRPCClient(conn).Export(withToken(t), plogotlp.NewExportRequest())
	expect("not allowed", err, codes.PermissionDenied, "logs:write")
	big := request(func(ms pmetric.MetricSlice) { ms.AppendEmpty().SetName(strings.Repeat("x", 10_000)) })
	_, err = ms.Export(withToken(t), pmetricotlp.NewExportRequestFromMetrics(big), grpc.UseCompressor("gzip"))
	expect("too large", err, codes.ResourceExhausted, "4096")
	broken := []byte("\x0a\x05abc")
	err = conn.Invoke(withToken(t), "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export", &broken, &broken, grpc.ForceCodecV2(rawCodec{}))
	expect("broken", err, codes.InvalidArgument, "broken protobuf")
	err = conn.Invoke(withToken(t), "/opentelemetry.proto.collector.trace.v1.TraceService/Export", &broken, &broken, grpc.ForceCodecV2(rawCodec{}))
	expect("traces", err, codes.Unimplemented, "")
	h.Fault.Set(kemi.RetryAfter(kemi.Errorf(kemi.ErrUnavailable, "disk full"), 7*time.Second))
	_, err = ms.Export(withToken(t), good)
	expect("not durable", err, codes.Unavailable, "disk full")
	retry := false
	for _, d := range status.Convert(err).Details() {
		info, ok := d.(*errdetails.RetryInfo)
		retry = retry || ok && info.RetryDelay.AsDuration() == 7*time.Second
	}
	if !retry {
		t.Errorf("no RetryInfo in %v", status.Convert(err).Details())
	}
	h.Fault.Set(nil)
	h.Expect()
}

func TestGRPCOverTLS(t *testing.T) {
	cert, key, pool, pair := collectortest.Certificate(t, t.TempDir())
	_, addr := serveGRPC(t, kemi.MetricsWrite, func(c *Config) { c.GRPC.TLS = listen.TLS{Cert: cert, Key: key, ClientCA: cert} })
	for name, certs := range map[string][]tls.Certificate{"with": {pair}, "without": nil} {
		conn := client(t, addr, credentials.NewTLS(&tls.Config{RootCAs: pool, Certificates: certs, MinVersion: tls.VersionTLS12}))
		ctx, cancel := context.WithTimeout(withToken(t), 20*time.Second)
		_, err := pmetricotlp.NewGRPCClient(conn).Export(ctx, pmetricotlp.NewExportRequestFromMetrics(request(allKinds)))
		cancel()
		if (err == nil) != (name == "with") {
			t.Errorf("%s a certificate: %v", name, err)
		}
	}
}

// TestSDK exports with OpenTelemetry's own SDK, over gRPC and HTTP, cumulative and delta.
func TestSDK(t *testing.T) {
	for _, temporality := range []metricdata.Temporality{metricdata.CumulativeTemporality, metricdata.DeltaTemporality} {
		for _, transport := range []string{"grpc", "http"} {
			t.Run(fmt.Sprint(transport, temporality), func(t *testing.T) {
				h, addr := serveGRPC(t, kemi.MetricsWrite, nil)
				choose := func(sdk.InstrumentKind) metricdata.Temporality { return temporality }
				var exporter sdk.Exporter
				var err error
				if transport == "grpc" {
					exporter, err = otlpmetricgrpc.New(t.Context(), otlpmetricgrpc.WithEndpoint(addr), otlpmetricgrpc.WithInsecure(), otlpmetricgrpc.WithCompressor("gzip"),
						otlpmetricgrpc.WithTemporalitySelector(choose), otlpmetricgrpc.WithHeaders(map[string]string{"authorization": "Bearer secret"}))
				} else {
					exporter, err = otlpmetrichttp.New(t.Context(), otlpmetrichttp.WithEndpointURL(h.URL+"/v1/metrics"), otlpmetrichttp.WithCompression(otlpmetrichttp.GzipCompression),
						otlpmetrichttp.WithTemporalitySelector(choose))
				}
				if err != nil {
					t.Fatal(err)
				}
				provider := sdk.NewMeterProvider(sdk.WithReader(sdk.NewPeriodicReader(exporter, sdk.WithInterval(time.Hour))),
					sdk.WithResource(resource.NewSchemaless(attribute.String("service.name", "pay"), attribute.String("host.name", "web-1"))),
					sdk.WithView(sdk.NewView(sdk.Instrument{Name: "size"}, sdk.Stream{Aggregation: sdk.AggregationBase2ExponentialHistogram{MaxSize: 160, MaxScale: 20}})))
				meter := provider.Meter("test")
				counter, err := meter.Int64Counter("orders", metric.WithDescription("Orders."))
				if err != nil {
					t.Fatal(err)
				}
				latency, err := meter.Float64Histogram("latency", metric.WithUnit("s"))
				if err != nil {
					t.Fatal(err)
				}
				size, err := meter.Float64Histogram("size", metric.WithUnit("By"))
				if err != nil {
					t.Fatal(err)
				}
				for range 3 {
					counter.Add(t.Context(), 2, metric.WithAttributes(attribute.String("shop", "a")))
					latency.Record(t.Context(), 0.3)
					size.Record(t.Context(), 100)
					if err := provider.ForceFlush(t.Context()); err != nil {
						t.Fatal(err)
					}
					time.Sleep(2 * time.Millisecond) // the store has one sample a millisecond
				}
				if err := provider.Shutdown(t.Context()); err != nil {
					t.Fatal(err)
				}
				for prefix, want := range map[string]string{
					`orders_total{host="web-1",job="pay",shop="a"}`: "6", `latency_seconds_count{host="web-1",job="pay"}`: "3", `latency_seconds_bucket{host="web-1",job="pay",le="5"}`: "3",
				} {
					if got := last(h, prefix); !strings.HasPrefix(got, prefix+" "+want+" @") || !strings.Contains(got, " start=") {
						t.Errorf("%s: %q, want %s and its start", prefix, got, want)
					}
				}
				var count float64
				for _, b := range h.Batches() {
					for _, x := range b.Complex.Histograms {
						count = max(count, x.FloatCount, float64(x.Count))
					}
				}
				if count != 3 {
					t.Errorf("the exponential histogram counts %v", count)
				}
			})
		}
	}
}
