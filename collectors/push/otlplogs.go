package push

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"kemi"
	"kemi/pipeline/codec"
)

const protocolOTLP = "otlp"

// otlpAliases are KEMI's names for what OpenTelemetry calls otherwise. The stream has both.
var otlpAliases = []struct{ name, alias string }{
	{"service.name", "service"}, {"host.name", "host"}, {"k8s.namespace.name", "namespace"}, {"k8s.pod.name", "pod"}, {"k8s.container.name", "container"},
	{"container.name", "container"}, {"deployment.environment.name", "env"}, {"deployment.environment", "env"}, {"cloud.availability_zone", "zone"},
}

// serveOTLPLogs takes OTLP/HTTP log requests, in protobuf and JSON.
func (p *Push) serveOTLPLogs(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	decode := codec.DecodeOTLPLogsText
	switch kind {
	case "application/x-protobuf":
	case "application/json":
		decode = decodeOTLPJSON
	default:
		p.fail(w, kemi.DialectKEMI, protocolOTLP, fmt.Errorf("%w: Content-Type %s: must be application/x-protobuf or application/json", errUnsupportedMedia, quote(kind)))
		return
	}
	in, err := p.receive(w, r, id, protocolOTLP, r.Header.Get("Content-Encoding"), func(in *intake, data string) error {
		records, err := decode(data)
		if err == nil {
			in.otlp(records)
		}
		return err
	})
	if err != nil {
		p.FailOTLP(w, kind, protocolOTLP, err)
		return
	}
	p.answered(protocolOTLP, http.StatusOK)
	w.Header().Set("Content-Type", kind)
	if kind == "application/json" {
		answer := map[string]any{}
		if in.refused > 0 {
			answer["partialSuccess"] = map[string]any{"rejectedLogRecords": strconv.Itoa(in.refused), "errorMessage": in.complaint().Error()}
		}
		_ = json.NewEncoder(w).Encode(answer)
		return
	}
	var b []byte
	if in.refused > 0 {
		b = protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(in.refused))
		b = protowire.AppendString(protowire.AppendTag(b, 2, protowire.BytesType), in.complaint().Error())
		b = protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), b)
	}
	_, _ = w.Write(b)
}

// FailOTLP tells err as google.rpc.Status in the request's own encoding, as OTLP wants it; the status and Retry-After are the same as elsewhere.
func (p *Push) FailOTLP(w http.ResponseWriter, kind, protocol string, err error) {
	code := statusOf(err)
	if code == http.StatusInternalServerError || code == http.StatusUnsupportedMediaType {
		p.fail(w, kemi.DialectKEMI, protocol, err)
		return
	}
	p.answered(protocol, code)
	if code == http.StatusServiceUnavailable || code == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(kemi.RetryDelay(err).Seconds()))))
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(code)
	if kind == "application/json" {
		_ = json.NewEncoder(w).Encode(map[string]any{"code": rpcCode(code), "message": err.Error()})
		return
	}
	b := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(rpcCode(code)))
	b = protowire.AppendString(protowire.AppendTag(b, 2, protowire.BytesType), err.Error())
	_, _ = w.Write(b)
}

// rpcCode is the number that google.rpc.Code has for a status of HTTP.
func rpcCode(status int) int {
	switch status {
	case http.StatusUnauthorized:
		return 16 // UNAUTHENTICATED
	case http.StatusForbidden:
		return 7 // PERMISSION_DENIED
	case http.StatusTooManyRequests, http.StatusRequestEntityTooLarge:
		return 8 // RESOURCE_EXHAUSTED
	case http.StatusServiceUnavailable:
		return 14 // UNAVAILABLE
	}
	return 3 // INVALID_ARGUMENT
}

// WriteOTLPLogs takes an OTLP logs request in protobuf, for receivers that do not come over HTTP. rejected is how many records were refused, and
// message why; the others are durable. An error means that nothing of it was taken, as far as the bus knows.
func (p *Push) WriteOTLPLogs(ctx context.Context, id kemi.Identity, body []byte) (rejected int, message string, err error) {
	if !id.Can(kemi.LogsWrite) {
		return 0, "", kemi.Errorf(kemi.ErrDenied, "write logs: %s may not", id.Subject)
	}
	in := p.newIntake(protocolOTLP)
	records, err := codec.DecodeOTLPLogs(body)
	if err != nil {
		return 0, "", err
	}
	in.otlp(records)
	if _, err := in.publish(ctx, id, ""); err != nil {
		return 0, "", err
	}
	if in.refused > 0 {
		message = in.complaint().Error()
	}
	return in.refused, message, nil
}

// otlp takes records as OpenTelemetry has them: with resources for streams.
func (in *intake) otlp(records []kemi.LogRecord) {
	type mapped struct {
		stream, attrs kemi.Labels
		err           error
	}
	known := map[*kemi.Label]mapped{}
	for i := range records {
		r := records[i]
		if r.At == 0 {
			r.At = in.now
		}
		if len(r.Stream) > 0 {
			m, ok := known[&r.Stream[0]]
			if !ok {
				m.stream, m.attrs = in.otlpStream(r.Stream)
				if len(m.stream) > 0 {
					var s *stream
					if s, m.err = in.shared(m.stream); m.err == nil {
						m.stream = s.labels
					}
				}
				known[&r.Stream[0]] = m
			}
			if m.err != nil {
				in.refuse(fmt.Sprintf("log record %d", i), m.err)
				continue
			}
			if r.Stream = m.stream; len(m.attrs) > 0 {
				r.Attrs = append(slices.Clone(m.attrs), r.Attrs...).Normalize()
			}
		}
		if r.Severity == 0 {
			r.Severity = labelSeverity(r.Attrs)
		}
		if err := in.take(&r); err != nil {
			in.refuse(fmt.Sprintf("log record %d", i), err)
		}
	}
}

// otlpStream is the stream of a resource: with KEMI's names beside OpenTelemetry's, and without values that are too long for a label, which
// become attributes.
func (in *intake) otlpStream(resource kemi.Labels) (stream, attrs kemi.Labels) {
	for _, l := range resource {
		if len(l.Value) > in.p.cfg.MaxLabelValueBytes {
			attrs = append(attrs, l)
			continue
		}
		l.Value = strings.ToValidUTF8(l.Value, "\ufffd")
		stream = append(stream, l)
	}
	stream = stream.Normalize()
	for _, a := range otlpAliases {
		if v := stream.Get(a.name); v != "" && !stream.Has(a.alias) {
			stream = stream.With(a.alias, v)
		}
	}
	return stream, attrs
}

// The shapes of OTLP's JSON. Numbers of 64 bits may be strings, IDs are hexadecimal.
type (
	otlpRequest struct {
		ResourceLogs []struct {
			Resource struct {
				Attributes []otlpAttr `json:"attributes"`
			} `json:"resource"`
			ScopeLogs []struct {
				Scope struct {
					Name       string     `json:"name"`
					Version    string     `json:"version"`
					Attributes []otlpAttr `json:"attributes"`
				} `json:"scope"`
				LogRecords []otlpRecord `json:"logRecords"`
			} `json:"scopeLogs"`
		} `json:"resourceLogs"`
	}
	otlpRecord struct {
		Time           otlpInt     `json:"timeUnixNano"`
		Observed       otlpInt     `json:"observedTimeUnixNano"`
		SeverityNumber json.Number `json:"severityNumber"`
		SeverityText   string      `json:"severityText"`
		Body           *otlpValue  `json:"body"`
		Attributes     []otlpAttr  `json:"attributes"`
		TraceID        string      `json:"traceId"`
		SpanID         string      `json:"spanId"`
		EventName      string      `json:"eventName"`
	}
	otlpAttr struct {
		Key   string    `json:"key"`
		Value otlpValue `json:"value"`
	}
	otlpValue struct {
		String *string  `json:"stringValue"`
		Bool   *bool    `json:"boolValue"`
		Int    *otlpInt `json:"intValue"`
		Double *any     `json:"doubleValue"` // NaN and Infinity are strings
		Bytes  *string  `json:"bytesValue"`
		Array  *struct {
			Values []otlpValue `json:"values"`
		} `json:"arrayValue"`
		Map *struct {
			Values []otlpAttr `json:"values"`
		} `json:"kvlistValue"`
	}
	otlpInt int64
)

// UnmarshalJSON reads a number, or one in a string.
func (n *otlpInt) UnmarshalJSON(b []byte) error {
	s := strings.Trim(string(b), `"`)
	if s == "" || s == "null" {
		return nil
	}
	if u, err := strconv.ParseUint(s, 10, 64); err == nil {
		*n = otlpInt(u)
		return nil
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return kemi.Errorf(kemi.ErrInvalid, "%s: must be a whole number of 64 bits", quote(s))
	}
	*n = otlpInt(v)
	return nil
}

func (v *otlpValue) text() string {
	switch {
	case v == nil:
		return ""
	case v.String != nil:
		return *v.String
	case v.Bytes != nil:
		if b, err := base64.StdEncoding.DecodeString(*v.Bytes); err == nil {
			return string(b)
		}
		return *v.Bytes
	case v.Array == nil && v.Map == nil:
		return strings.Trim(string(v.json(nil)), `"`)
	}
	return string(v.json(nil))
}

func (v *otlpValue) json(b []byte) []byte {
	quoted := func(v any) []byte {
		q, err := json.Marshal(v)
		if err != nil {
			q = []byte("null")
		}
		return append(b, q...)
	}
	switch {
	case v.String != nil:
		return quoted(*v.String)
	case v.Bytes != nil:
		return quoted(*v.Bytes)
	case v.Bool != nil:
		return strconv.AppendBool(b, *v.Bool)
	case v.Int != nil:
		return strconv.AppendInt(b, int64(*v.Int), 10)
	case v.Double != nil:
		return quoted(*v.Double)
	case v.Array != nil:
		b = append(b, '[')
		for i := range v.Array.Values {
			if i > 0 {
				b = append(b, ',')
			}
			b = v.Array.Values[i].json(b)
		}
		return append(b, ']')
	case v.Map != nil:
		b = append(b, '{')
		for i := range v.Map.Values {
			if i > 0 {
				b = append(b, ',')
			}
			q, _ := json.Marshal(v.Map.Values[i].Key) // a string can always be marshalled
			b = append(append(b, q...), ':')
			b = v.Map.Values[i].Value.json(b)
		}
		return append(b, '}')
	}
	return b
}

func otlpLabels(ls kemi.Labels, attrs []otlpAttr) kemi.Labels {
	for i := range attrs {
		ls = append(ls, kemi.Label{Name: attrs[i].Key, Value: attrs[i].Value.text()})
	}
	return ls
}

// decodeOTLPJSON is codec.DecodeOTLPLogs for the protocol's JSON.
func decodeOTLPJSON(body string) ([]kemi.LogRecord, error) {
	var req otlpRequest
	if err := json.Unmarshal([]byte(body), &req); err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "body: not an OTLP logs request in JSON: %w", err)
	}
	var out []kemi.LogRecord
	for _, rl := range req.ResourceLogs {
		stream := otlpLabels(nil, rl.Resource.Attributes).Normalize()
		for _, sl := range rl.ScopeLogs {
			scope := otlpLabels(kemi.Labels{{Name: "scope.name", Value: sl.Scope.Name}, {Name: "scope.version", Value: sl.Scope.Version}}, sl.Scope.Attributes)
			for i := range sl.LogRecords {
				r := sl.LogRecords[i].record(scope)
				r.Stream = stream
				out = append(out, r)
			}
		}
	}
	return out, nil
}

func (l *otlpRecord) record(scope kemi.Labels) kemi.LogRecord {
	r := kemi.LogRecord{At: kemi.Nanos(l.Time), Body: l.Body.text(), TraceID: hexID(l.TraceID, 32), SpanID: hexID(l.SpanID, 16)}
	if r.At == 0 {
		r.At = kemi.Nanos(l.Observed)
	}
	attrs := otlpLabels(slices.Clone(scope), l.Attributes)
	if n, err := strconv.Atoi(l.SeverityNumber.String()); err == nil && n > 0 && n <= 24 {
		r.Severity = kemi.Severity(n)
	} else if l.SeverityText != "" {
		if r.Severity = kemi.ParseSeverity(l.SeverityText); r.Severity == 0 {
			attrs = append(attrs, kemi.Label{Name: "level", Value: l.SeverityText})
		}
	}
	if l.EventName != "" {
		attrs = append(attrs, kemi.Label{Name: "event.name", Value: l.EventName})
	}
	if attrs = attrs.Normalize(); len(attrs) > 0 {
		r.Attrs = attrs
	}
	return r
}
