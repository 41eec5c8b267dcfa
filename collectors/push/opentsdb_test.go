package push

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
)

func TestPutTakes(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		want string // series, time, value
	}{
		"one":              {`{"metric":"data.load.avg_5m","timestamp":1777777777,"value":7.25,"tags":{"host":"dkos-marathon"}}`, `{__name__="data.load.avg_5m", host="dkos-marathon"} 1777777777000 7.25`},
		"milliseconds":     {`[{"metric":"m","timestamp":1777777777123,"value":-3,"tags":{"a":"b"}}]`, `{__name__="m", a="b"} 1777777777123 -3`},
		"texts":            {`{"metric":"m","timestamp":"1777777777","value":"1e3","tags":{"a":"b"}}`, `{__name__="m", a="b"} 1777777777000 1000`},
		"fraction":         {`{"metric":"m","timestamp":1777777777.125,"value":0,"tags":{"a":"b"}}`, `{__name__="m", a="b"} 1777777777125 0`},
		"tags of all kind": {`{"tags":{"n":5,"b":true,"서비스":"결제","x":"10.0.0.1:9100"},"value":"+.5","timestamp":1777777777,"metric":"시스템.cpu","more":[1,{"a":null}]}`, `{__name__="시스템.cpu", b="true", n="5", x="10.0.0.1:9100", 서비스="결제"} 1777777777000 0.5`},
		"escapes":          {`{"metric":"\u006d","timestamp":1777777777,"value":1,"tags":{"a":"\u00e9\ud801\udc00\/"}}`, `{__name__="m", a="é𐐀/"} 1777777777000 1`},
		"2018":             {`{"metric":"m","timestamp":1526000000,"value":1,"tags":{"a":"b"}}`, `{__name__="m", a="b"} 1526000000000 1`},
		"largest":          {`{"metric":"m","timestamp":1777777777,"value":1.7976931348623157e308,"tags":{"a":"b"}}`, `{__name__="m", a="b"} 1777777777000 1.7976931348623157e+308`},
	} {
		t.Run(name, func(t *testing.T) {
			h := openHouse(t, nil)
			for i, path := range []string{"/api/put", "/api/v2/put"} {
				status, text, _ := h.post(path, []byte(c.body), "Content-Type", "application/json")
				if status != 204 || text != "" {
					t.Fatalf("%d %s", status, text)
				}
				var got []string
				for name, ps := range h.stored() {
					got = append(got, fmt.Sprintf("%s %d %v", name, ps[i].At[0], ps[i].Values[0]))
				}
				if !slices.Equal(got, []string{c.want}) {
					t.Fatalf("stored %q, want %q", got, c.want)
				}
			}
		})
	}
}

func TestPutPacked(t *testing.T) {
	h := openHouse(t, nil)
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	fmt.Fprint(z, `[{"metric":"m","timestamp":1777777777,"value":1,"tags":{"a":"b"}}]`)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if status, text, _ := h.post("/api/put", b.Bytes(), "Content-Encoding", "gzip"); status != 204 {
		t.Fatalf("%d %s", status, text)
	}
	if status, text, _ := h.post("/api/put", b.Bytes()[:b.Len()/2], "Content-Encoding", "gzip"); status != 400 || !strings.Contains(text, "broken gzip") {
		t.Fatalf("%d %s", status, text)
	}
	b.Reset()
	z = gzip.NewWriter(&b)
	zeros := make([]byte, 1<<20)
	for range 70 {
		_, _ = z.Write(zeros)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if status, text, _ := h.post("/api/put", b.Bytes(), "Content-Encoding", "gzip"); status != 413 || !strings.Contains(text, "more than 67108864 bytes") {
		t.Fatalf("%d %s", status, text)
	}
	if len(h.records()) != 1 {
		t.Fatal("something of it was published")
	}
}

// One bad point after the other: it is counted and told as OpenTSDB does, and the good ones around it are stored.
func TestPutRefusesPoints(t *testing.T) {
	point := func(metric, timestamp, value, tags string) string {
		return fmt.Sprintf(`{"metric":%s,"timestamp":%s,"value":%s,"tags":%s}`, metric, timestamp, value, tags)
	}
	for name, c := range map[string]struct{ point, says string }{
		"no metric":        {`{"timestamp":1777777777,"value":1,"tags":{"a":"b"}}`, "Metric name was empty"},
		"empty metric":     {point(`""`, `1777777777`, `1`, `{"a":"b"}`), "Metric name was empty"},
		"metric object":    {point(`{"x":1}`, `1777777777`, `1`, `{"a":"b"}`), "Metric must be a string"},
		"metric UTF-8":     {point("\"m\xff\"", `1777777777`, `1`, `{"a":"b"}`), "not valid UTF-8"},
		"no time":          {`{"metric":"m","value":1,"tags":{"a":"b"}}`, "Invalid timestamp"},
		"negative time":    {point(`"m"`, `-5`, `1`, `{"a":"b"}`), "Invalid timestamp"},
		"text for time":    {point(`"m"`, `"yesterday"`, `1`, `{"a":"b"}`), `Invalid timestamp \"yesterday\"`},
		"time too old":     {point(`"m"`, `12345`, `1`, `{"a":"b"}`), "Invalid timestamp 12345: must be between 20"},
		"time in future":   {point(`"m"`, `4200000000`, `1`, `{"a":"b"}`), "must be between"},
		"nanoseconds":      {point(`"m"`, `1777777777123456789`, `1`, `{"a":"b"}`), "must be between"},
		"huge time":        {point(`"m"`, `1e300`, `1`, `{"a":"b"}`), "Invalid timestamp"},
		"no value":         {`{"metric":"m","timestamp":1777777777,"tags":{"a":"b"}}`, "Empty value"},
		"null":             {point(`"m"`, `1777777777`, `null`, `{"a":"b"}`), "Empty value"},
		"NaN":              {point(`"m"`, `1777777777`, `NaN`, `{"a":"b"}`), "Unable to parse value to a number"},
		"NaN as text":      {point(`"m"`, `1777777777`, `"NaN"`, `{"a":"b"}`), "Unable to parse value to a number"},
		"infinite":         {point(`"m"`, `1777777777`, `-Infinity`, `{"a":"b"}`), "Unable to parse value to a number"},
		"infinite as text": {point(`"m"`, `1777777777`, `"inf"`, `{"a":"b"}`), "Unable to parse value to a number"},
		"too large":        {point(`"m"`, `1777777777`, `1e999`, `{"a":"b"}`), "Unable to parse value to a number"},
		"hexadecimal":      {point(`"m"`, `1777777777`, `"0x10"`, `{"a":"b"}`), "Unable to parse value to a number"},
		"truth":            {point(`"m"`, `1777777777`, `true`, `{"a":"b"}`), "Unable to parse value to a number"},
		"no tags":          {`{"metric":"m","timestamp":1777777777,"value":1}`, "Missing tags"},
		"empty tags":       {point(`"m"`, `1777777777`, `1`, `{}`), "Missing tags"},
		"tags as list":     {point(`"m"`, `1777777777`, `1`, `["a"]`), "Tags must be an object"},
		"empty tag":        {point(`"m"`, `1777777777`, `1`, `{"a":""}`), `Invalid tag value with key [a]: empty string`},
		"empty tag name":   {point(`"m"`, `1777777777`, `1`, `{"":"a"}`), "Invalid tag name with value [a]: empty string"},
		"null tag":         {point(`"m"`, `1777777777`, `1`, `{"a":null}`), `Invalid tag value with key [a]: null`},
		"space in a name":  {point(`"m m"`, `1777777777`, `1`, `{"a":"b"}`), `Invalid metric name (\"m m\"): illegal character:  `},
		"semicolon a key":  {point(`"m"`, `1777777777`, `1`, `{"a;b":"c"}`), `Invalid tag name with value [c] (\"a;b\"): illegal character: ;`},
		"smile in a value": {point(`"m"`, `1777777777`, `1`, `{"a":"☺"}`), `Invalid tag value with key [a] (\"☺\"): illegal character: ☺`},
		"tag twice":        {point(`"m"`, `1777777777`, `1`, `{"a":"1","a":"2"}`), `Tag \"a\" stands there twice`},
		"the name as tag":  {point(`"m"`, `1777777777`, `1`, `{"__name__":"2"}`), `stands there twice`},
		"long tag":         {point(`"m"`, `1777777777`, `1`, `{"a":"`+strings.Repeat("x", 10<<20)+`"}`), "value of 10485760 bytes, at most 16384"},
		"many tags":        {point(`"m"`, `1777777777`, `1`, `{`+strings.Join(many(70), ",")+`}`), "Too many tags: 70, at most 63"},
		"no object":        {`17`, "A point must be an object"},
	} {
		t.Run(name, func(t *testing.T) {
			h := openHouse(t, nil)
			ok := func(i int) string {
				return fmt.Sprintf(`{"metric":"ok","timestamp":%d,"value":1,"tags":{"a":"b"}}`, 1777777777+i)
			}
			body := "[" + ok(0) + "," + c.point + "," + ok(1) + "," + c.point + "]"
			status, text, _ := h.post("/api/put?details", []byte(body))
			if status != 400 || len(text) > 4000 {
				t.Fatalf("%d %d %.300s", status, len(text), text)
			}
			var a struct {
				Success, Failed int
				Errors          []struct {
					Datapoint map[string]any
					Error     string
				}
			}
			if err := json.Unmarshal([]byte(text), &a); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			if a.Success != 2 || a.Failed != 2 || len(a.Errors) != 2 || a.Errors[0].Error != a.Errors[1].Error {
				t.Fatalf("%s", text)
			}
			wants(t, text, c.says)
			var at []kemi.Millis
			for _, p := range h.stored()[`{__name__="ok", a="b"}`] {
				at = append(at, p.At...)
			}
			if !slices.Equal(at, []kemi.Millis{1777777777000, 1777777778000}) {
				t.Fatalf("stored %v", h.stored())
			}
			// Without a word in the query there is only that something failed.
			status, text, _ = h.post("/api/put", []byte(body))
			if status != 400 {
				t.Fatalf("%d %s", status, text)
			}
			wants(t, text, `"code":400`, "One or more data points had errors", "2 of 4 failed", c.says)
			status, text, _ = h.post("/api/put?summary", []byte(body))
			if status != 400 || strings.TrimSpace(text) != `{"failed":2,"success":2}` {
				t.Fatalf("%d %s", status, text)
			}
		})
	}
}

func many(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf(`"t%d":"v"`, i))
	}
	return out
}

func TestPutAnswers(t *testing.T) {
	h := openHouse(t, nil)
	good := `{"metric":"m","timestamp":1777777777,"value":1,"tags":{"a":"b"}}`
	for name, c := range map[string]struct {
		path, body string
		status     int
		want       string
	}{
		"details":         {"/api/put?details", good, 200, `{"errors":[],"failed":0,"success":1}`},
		"summary":         {"/api/put?summary=true", "[" + good + "," + good + "]", 200, `{"failed":0,"success":2}`},
		"both":            {"/api/put?summary&details", good, 200, `{"errors":[],"failed":0,"success":1}`},
		"as in the book":  {"/api/put?details", `[{"metric":"sys.cpu.nice","timestamp":1777777777,"value":"NaN","tags":{"host":"web01"}}]`, 400, `{"errors":[{"datapoint":{"metric":"sys.cpu.nice","timestamp":1777777777,"value":"NaN","tags":{"host":"web01"}},"error":"Unable to parse value to a number"}],"failed":1,"success":0}`},
		"empty":           {"/api/put", ``, 400, `{"error":{"code":400,"details":"expected a point or an array of them","message":"Missing request content"}}`},
		"no points":       {"/api/put", `[]`, 400, `{"error":{"code":400,"message":"No datapoints found in content"}}`},
		"half a JSON":     {"/api/put", `[` + good + `,{"metric":"m","times`, 400, `broken JSON: it ends too early`},
		"two values":      {"/api/put", good + good, 400, `broken JSON: expected nothing more`},
		"no JSON":         {"/api/put", `put m 1777777777 1 a=b`, 400, `The JSON must start as an object or an array`},
		"sync unknown":    {"/api/put?sync", good, 400, `parameter sync`},
		"bad timeout":     {"/api/put?sync_timeout=soon", good, 400, `sync_timeout: \"soon\"`},
		"unknown packing": {"/api/put", good, 415, `br`},
	} {
		t.Run(name, func(t *testing.T) {
			var headers []string
			if name == "unknown packing" {
				headers = []string{"Content-Encoding", "br"}
			}
			before := len(h.records())
			status, text, _ := h.post(c.path, []byte(c.body), headers...)
			if status != c.status || !strings.Contains(text, c.want) {
				t.Fatalf("%d %s, want %d %s", status, text, c.status, c.want)
			}
			if published := len(h.records()) - before; (published == 1) != (status == 200) {
				t.Fatalf("%d records published", published)
			}
		})
	}
}

// With ?sync the answer comes when the points can be queried.
func TestPutSync(t *testing.T) {
	var waited []int64
	var fail error
	h := openHouse(t, func(o *Options) {
		o.WaitApplied = func(ctx context.Context, topic string, partition int32, offset int64) error {
			if topic != bus.Metrics || partition != 0 {
				t.Errorf("%s/%d", topic, partition)
			}
			waited = append(waited, offset)
			if fail != nil {
				<-ctx.Done()
				return fail
			}
			return nil
		}
	})
	good := []byte(`{"metric":"m","timestamp":1777777777,"value":1,"tags":{"a":"b"}}`)
	for i := range 3 {
		if status, text, _ := h.post("/api/put?sync&summary&sync_timeout=9000", good); status != 200 || strings.TrimSpace(text) != `{"failed":0,"success":1,"timeouts":0}` {
			t.Fatalf("%d %s", status, text)
		}
		if len(waited) != i+1 || waited[i] != int64(i) {
			t.Fatalf("waited for %v", waited)
		}
	}
	if status, _, _ := h.post("/api/put", good); status != 204 || len(waited) != 3 {
		t.Fatalf("%d, waited for %v", status, waited)
	}
	fail = kemi.Errorf(kemi.ErrUnavailable, "not yet")
	if status, text, _ := h.post("/api/put?sync&sync_timeout=20", good); status != 400 || !strings.Contains(text, "The put call has timed out: 1 points are stored") {
		t.Fatalf("%d %s", status, text)
	}
}

func FuzzPut(f *testing.F) {
	for _, s := range []string{
		`{"metric":"m","timestamp":1777777777,"value":7.25,"tags":{"host":"a"}}`, `[{"metric":"m","timestamp":"1777777777123","value":"1","tags":{"a":1}},{}]`,
		`[{"metric":"m","timestamp":1.5e9,"value":NaN,"tags":{"a":"\ud83d"}}]`, `[1,null,[],{"tags":[]}]`, `[`, `{"metric":{"x":[[[]]]}}`,
	} {
		f.Add([]byte(s))
	}
	p := &Push{cfg: DefaultConfig(), now: time.Now, table: codec.NewTable(nil, time.Now)}
	id := kemi.Identity{Subject: "fuzz", Project: "p", Permissions: kemi.MetricsWrite}
	f.Fuzz(func(t *testing.T, body []byte) {
		l := p.limits()
		out, err := p.Begin(id, protocolPut, "", "fuzz")
		if err != nil {
			t.Fatal(err)
		}
		defer out.End()
		in := &put{p: p, details: true, text: string(body), out: out, ctx: t.Context(), oldest: int64(l.Oldest), newest: int64(l.Newest)}
		if err := in.parse(); err != nil {
			return
		}
		got := out.Take()
		if got == nil {
			got = &codec.Incoming{Batch: &codec.SeriesBatch{}}
		}
		if in.failed != len(in.errors) || in.good != got.Samples {
			t.Fatalf("%d good, %d built; %d failed, %d told", in.good, got.Samples, in.failed, len(in.errors))
		}
		for _, v := range got.Batch.Values {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				t.Fatalf("value %v", v)
			}
		}
	})
}

func BenchmarkPut(b *testing.B) {
	var body bytes.Buffer
	body.WriteByte('[')
	for i := range 2000 {
		if i > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(&body, `{"metric":"node_metric_%d","timestamp":1777777777123,"value":%d.25,"tags":{"dc":"dc1","env":"prod","host":"host-%d","instance":"10.0.0.%d:9100","os":"debian12","rack":"r01","region":"seoul","service":"svc_01","team":"team-1"}}`, i%100, i, i/100, i/100)
	}
	body.WriteByte(']')
	p := &Push{cfg: DefaultConfig(), now: time.Now, table: codec.NewTable(nil, time.Now)}
	l := p.limits()
	b.ReportAllocs()
	b.SetBytes(int64(body.Len()))
	id := kemi.Identity{Subject: "bench", Project: "p", Permissions: kemi.MetricsWrite}
	for b.Loop() {
		out, _ := p.Begin(id, protocolPut, "", "bench")
		in := &put{p: p, text: body.String(), out: out, ctx: b.Context(), oldest: int64(l.Oldest), newest: int64(l.Newest)}
		if err := in.parse(); err != nil || in.failed > 0 {
			b.Fatal(err, in.first)
		}
		out.Take()
		out.End()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/2000, "ns/point")
}

func TestPutSpecialCharacters(t *testing.T) {
	for _, c := range []struct{ name, special, bad string }{
		{"cpu.user/total-1_x", "", ""}, {"서비스", "", ""}, {"a b", "", " "}, {"a:b", "", ":"}, {"a:b", ":", ""}, {"a:b c", ":", " "}, {"a☺", "☺", ""}, {"٣", "", "٣"},
	} {
		if got := illegal(c.name, c.special); got != c.bad {
			t.Errorf("%q with %q: %q, want %q", c.name, c.special, got, c.bad)
		}
	}
}
