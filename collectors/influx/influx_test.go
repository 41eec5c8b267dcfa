package influx

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"kemi"
	"kemi/collectors/collectortest"
	"kemi/collectors/push"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
)

const now = 1777777777000 // ms

func open(t testing.TB) *collectortest.House {
	h := collectortest.Open(t, nil)
	r, err := New(DefaultConfig(), h.Push, func() time.Time { return time.UnixMilli(now) })
	if err != nil {
		t.Fatal(err)
	}
	h.Serve(r.Routes())
	return h
}

func TestWriteTakes(t *testing.T) {
	for name, c := range map[string]struct {
		path, body string
		want       []string
	}{
		"one":                     {"/write?precision=s", "cpu,host=web-1 usage=7.25 1777777770", []string{`cpu_usage{host="web-1"} 7.25 @1777777770000`}},
		"nanoseconds":             {"/write", "cpu usage=1 1777777770123456789\n", []string{`cpu_usage 1 @1777777770123`}},
		"before 1970 rounds down": {"/write?precision=us", "cpu usage=1 1777777770123999", []string{`cpu_usage 1 @1777777770123`}},
		"no time":                 {"/api/v2/write", "cpu usage=1", []string{`cpu_usage 1 @1777777777000`}},
		"types": {"/write?precision=ms", `m,a=b f=-1.5e3,i=7i,u=18446744073709551615u,t=true,n=F,s="a, b=\"c\" d" 1777777770000`, []string{
			`m_f{a="b"} -1500 @1777777770000`, `m_i{a="b"} 7 @1777777770000`, `m_n{a="b"} 0 @1777777770000`, `m_t{a="b"} 1 @1777777770000`, `m_u{a="b"} 1.8446744073709552e+19 @1777777770000`,
		}},
		"escapes":               {"/write?precision=m", `a\,b\ c,t\=x\ y=v\,1\=2 f\ g\=h=1 29629629`, []string{`a,b c_f g=h{t=x y="v,1=2"} 1 @1777777740000`}},
		"backslashes":           {"/write?precision=h", `a,p=C:\dir f=1 493827`, []string{`a_f{p="C:\\dir"} 1 @1777777200000`}},
		"lines":                 {"/write?precision=s", "# comment\n\n  \r\na f=1 1777777770\r\nb f=2 1777777770\n", []string{`a_f 1 @1777777770000`, `b_f 2 @1777777770000`}},
		"break in a string":     {"/write?precision=s", "a s=\"x\ny\",f=1 1777777770\nb f=2 1777777770", []string{`a_f 1 @1777777770000`, `b_f 2 @1777777770000`}},
		"strings only":          {"/write?precision=s", `a s="x" 1777777770`, nil},
		"database":              {"/write?precision=s&db=telegraf&rp=autogen", "a f=1 1777777770", []string{`a_f{db="telegraf"} 1 @1777777770000`}},
		"bucket":                {"/api/v2/write?precision=s&bucket=b/autogen&org=o", "a,db=mine f=1 1777777770\nb f=1 1777777770", []string{`a_f{db="mine"} 1 @1777777770000`, `b_f{db="b/autogen"} 1 @1777777770000`}},
		"other order":           {"/write?precision=s", "a,x=1,y=2 f=1 1777777770\na,y=2,x=1 f=2 1777777771", []string{`a_f{x="1", y="2"} 1 @1777777770000`, `a_f{x="1", y="2"} 2 @1777777771000`}},
		"nothing":               {"/write", "", nil},
		"UTF-8":                 {"/write?precision=s", "측정,서비스=결제 값=3 1777777770", []string{`측정_값{서비스="결제"} 3 @1777777770000`}},
		"VictoriaMetrics' path": {"/influx/write?precision=s", "a f=1 1777777770", []string{`a_f 1 @1777777770000`}},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			for range 2 { // new series, then known ones
				if status, text, _ := h.Post(c.path, []byte(c.body)); status != http.StatusNoContent || text != "" {
					t.Fatalf("%d %s", status, text)
				}
			}
			var want []string
			for _, w := range c.want {
				w = strings.ReplaceAll(w, `", `, `",`)
				want = append(want, w, w)
			}
			h.Expect(want...)
		})
	}
}

// TestWriteRefuses sends each bad line between two good ones: those are kept, and the answer says what is wrong with which line.
func TestWriteRefuses(t *testing.T) {
	for line, why := range map[string]string{
		"cpu":                          "missing fields",
		"cpu ":                         "missing fields",
		",a=b f=1":                     "missing measurement",
		"cpu,a f=1":                    "missing tag value",
		"cpu,a= f=1":                   "missing tag value",
		"cpu,=b f=1":                   "missing tag key",
		"cpu, f=1":                     "missing tag key",
		"cpu,a=b,a=c f=1":              "duplicate tags",
		"cpu f":                        "missing field value",
		"cpu f=":                       "missing field value",
		"cpu f=1,":                     "missing field key",
		"cpu =1":                       "missing field key",
		"cpu f=1,g":                    "missing field value",
		"cpu f=abc":                    "invalid number",
		"cpu f=1e":                     "invalid number",
		"cpu f=0x10":                   "invalid number",
		"cpu f=-0X1p4":                 "invalid number",
		"cpu f=0x_1p4":                 "invalid number",
		"cpu f=1_0":                    "invalid number",
		"cpu f=NaN":                    "invalid number",
		"cpu f=+Inf":                   "invalid number",
		"cpu f=1.5i":                   "invalid number",
		"cpu f=-1u":                    "invalid number",
		"cpu f=9223372036854775808i":   "invalid number",
		"cpu f=tru":                    "invalid boolean",
		"cpu f=1 12x":                  "bad timestamp",
		"cpu f=1 1 2":                  "bad timestamp",
		"cpu f=1 99999999999999999999": "bad timestamp",
		"cpu f=1 1":                    "time must be between",
		`cpu s="x"y`:                   "unbalanced quotes",
		"cpu,a=\xff f=1":               "invalid UTF-8",
		"cpu \xff=1":                   "invalid UTF-8",
		"cpu,__name__=x f=1":           "reserved",
		"cpu," + strings.Repeat("t", 2000) + "=x f=1": "name of 2000 bytes",
	} {
		t.Run(line[:min(len(line), 30)], func(t *testing.T) {
			h := open(t)
			status, text, header := h.Post("/write?precision=s", []byte("a f=1 1777777770\n"+line+"\nb f=2 1777777770\n"))
			var answer struct {
				Error, Code, Message string
				Line                 int
			}
			if err := json.Unmarshal([]byte(text), &answer); err != nil {
				t.Fatalf("%d %s: %v", status, text, err)
			}
			if status != http.StatusBadRequest || !strings.Contains(answer.Error, why) || !strings.Contains(answer.Error, "partial write: line 2: unable to parse 'cpu") && line[0] == 'c' ||
				!strings.HasSuffix(answer.Error, "dropped=1") || answer.Code != "invalid" || answer.Line != 2 || answer.Message != answer.Error || header.Get("X-Influxdb-Error") == "" {
				t.Errorf("%d %s", status, text)
			}
			h.Expect(`a_f 1 @1777777770000`, `b_f 2 @1777777770000`)
			status, text, _ = h.Post("/api/v2/write?precision=s", []byte(line))
			if status != http.StatusBadRequest || strings.Contains(text, "partial") {
				t.Errorf("alone: %d %s", status, text)
			}
		})
	}
}

func TestUnbalancedQuotesCostOneLine(t *testing.T) {
	h := open(t)
	status, text, _ := h.Post("/write?precision=s", []byte("a s=\"x 1777777770\nb f=2 1777777770\n"))
	if status != http.StatusBadRequest || !strings.Contains(text, "unbalanced quotes") {
		t.Errorf("%d %s", status, text)
	}
	h.Expect(`b_f 2 @1777777770000`)
}

func TestManyErrorsAreCounted(t *testing.T) {
	h := open(t)
	status, text, _ := h.Post("/write", []byte(strings.Repeat("cpu\n", 25)))
	if status != http.StatusBadRequest || !strings.Contains(text, "and 15 more") {
		t.Errorf("%d %s", status, text)
	}
}

func TestPackedAndBroken(t *testing.T) {
	h := open(t)
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	fmt.Fprint(z, "a f=1 1777777770")
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if status, text, _ := h.Post("/api/v2/write?precision=s", b.Bytes(), "Content-Encoding", "gzip"); status != http.StatusNoContent {
		t.Errorf("gzip: %d %s", status, text)
	}
	for _, c := range []struct {
		path     string
		encoding string
		status   int
		want     string
	}{
		{"/write", "gzip", http.StatusBadRequest, "broken gzip"},
		{"/write", "br", http.StatusUnsupportedMediaType, "Content-Encoding"},
		{"/write?precision=d", "", http.StatusBadRequest, "precision"},
	} {
		if status, text, _ := h.Post(c.path, []byte("a f=1"), "Content-Encoding", c.encoding); status != c.status || !strings.Contains(text, c.want) {
			t.Errorf("%s %s: %d %s", c.path, c.encoding, status, text)
		}
	}
	h.Expect(`a_f 1 @1777777770000`)
}

// TestNotDurableIsNotAcknowledged checks that an answer of 204 is given only after the log has the samples.
func TestNotDurableIsNotAcknowledged(t *testing.T) {
	h := open(t)
	h.Fault.Set(kemi.Errorf(kemi.ErrUnavailable, "disk full"))
	status, text, header := h.Post("/write", []byte("a f=1"))
	if status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" || !strings.Contains(text, `"code":"unavailable"`) {
		t.Errorf("%d %s", status, text)
	}
	h.Fault.Set(nil)
	h.ID.Permissions = kemi.MetricsRead
	if status, _, _ = h.Post("/write", []byte("a f=1")); status != http.StatusForbidden {
		t.Errorf("without the permission: %d", status)
	}
	h.Expect()
}

// TestSeriesLimit has no room for the second of two series: the first is stored, and the answer is 429.
func TestSeriesLimit(t *testing.T) {
	h := collectortest.Open(t, func(o *push.Options) { o.Series = &collectortest.Full{Left: 1} })
	r, err := New(DefaultConfig(), h.Push, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	h.Serve(r.Routes())
	status, text, header := h.Post("/write?precision=s", []byte("a f=1 1777777770\nb f=1 1777777770\na f=2 1777777771"))
	if status != 429 || header.Get("Retry-After") != "60" || !strings.Contains(text, "limit of series of project shop") || !strings.Contains(text, "too many requests") {
		t.Errorf("%d %s %v", status, text, header)
	}
	h.Expect(`a_f 1 @1777777770000`, `a_f 2 @1777777771000`)
	if status, text, _ = h.Post("/write?precision=s", []byte("b f=1 1777777770\nc f=x")); status != 400 {
		t.Errorf("%d %s", status, text)
	}
}

func TestPingAndQuery(t *testing.T) {
	h := open(t)
	for path, want := range map[string]int{"/ping": 204, "/ping?verbose=true": 200} {
		status, _, header := h.Do(http.MethodGet, path, nil)
		if status != want || !strings.HasPrefix(header.Get("X-Influxdb-Version"), "1.8") {
			t.Errorf("%s: %d %v", path, status, header)
		}
	}
	if status, _, _ := h.Do(http.MethodHead, "/ping", nil); status != 204 {
		t.Errorf("HEAD: %d", status)
	}
	if status, text, _ := h.Do(http.MethodGet, "/health", nil); status != 200 || !strings.Contains(text, `"status":"pass"`) {
		t.Errorf("health: %d %s", status, text)
	}
	r, err := New(DefaultConfig(), h.Push, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for _, route := range r.Routes() {
		if (route.Pattern == "GET /ping" || route.Pattern == "GET /health") && !route.Public {
			t.Errorf("%s needs an identity", route.Pattern)
		}
	}
	status, text, _ := h.Post("/query", []byte(`q=CREATE+DATABASE+"telegraf"`), "Content-Type", "application/x-www-form-urlencoded")
	if status != 200 || !strings.Contains(text, `"statement_id":0`) {
		t.Errorf("create: %d %s", status, text)
	}
	if status, text, _ = h.Do(http.MethodGet, "/query?q=SELECT+1", nil); status != 400 || !strings.Contains(text, `"error":"query`) {
		t.Errorf("select: %d %s", status, text)
	}
}

// texts are the log records that the log has, as stream, attributes and body.
func texts(h *collectortest.House) []string {
	var out []string
	for _, r := range h.Records(bus.Logs) {
		records, err := codec.DecodeLogs(&r)
		if err != nil {
			h.Fatal(err)
		}
		for _, l := range records {
			out = append(out, fmt.Sprintf("%d %s %s %s", l.At.Millis(), l.Stream, l.Attrs, l.Body))
		}
	}
	return out
}

// TestStrings sends string fields beside numbers and alone: the numbers become samples, the strings log records, and nothing is left out.
func TestStrings(t *testing.T) {
	const body = `http,host=web-1 status=200i,server="ng \"x\" \\ y",note="" 1777777770
syslog,host=web-1 message="disk is
full",facility="kern" 1777777771
state s="up" 1777777772`
	h := open(t)
	if status, text, header := h.Post("/write?precision=s&db=t", []byte(body)); status != http.StatusNoContent || header.Get("X-Kemi-Ignored") != "" {
		t.Fatalf("%d %s %v", status, text, header)
	}
	h.Expect(`http_status{db="t",host="web-1"} 200 @1777777770000`)
	want := []string{
		`1777777770000 {db="t", host="web-1", measurement="http"} {server="ng \"x\" \\ y"} server="ng \"x\" \\ y" note=""`,
		`1777777771000 {db="t", host="web-1", measurement="syslog"} {facility="kern"} disk is` + "\nfull",
		`1777777772000 {db="t", measurement="state"} {s="up"} s="up"`,
	}
	if got := texts(h); !slices.Equal(got, want) {
		t.Errorf("%q\nwant\n%q", got, want)
	}

	// Without the permission to write logs the numbers are kept, and the answer says what was not.
	h = open(t)
	h.ID.Permissions = kemi.MetricsWrite
	status, text, _ := h.Post("/write?precision=s", []byte(body))
	if status != http.StatusBadRequest || !strings.Contains(text, "partial write") || !strings.Contains(text, "dropped=3") || !strings.Contains(text, "logs:write") {
		t.Errorf("%d %s", status, text)
	}
	h.Expect(`http_status{host="web-1"} 200 @1777777770000`)

	// A text that is too long is told.
	h = open(t)
	long := `a f=1,s="` + strings.Repeat("x", h.Push.Config().MaxLineBytes+1) + `" 1777777770`
	if status, text, _ = h.Post("/write?precision=s", []byte(long)); status != http.StatusBadRequest || !strings.Contains(text, "maxLineBytes") {
		t.Errorf("%d %.300s", status, text)
	}
	h.Expect(`a_f 1 @1777777770000`)

	// Where they are to be ignored, that is told in a header.
	h = collectortest.Open(t, nil)
	r, err := New(Config{Strings: stringsIgnored}, h.Push, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	h.Serve(r.Routes())
	if status, text, header := h.Post("/write?precision=s", []byte(body)); status != http.StatusNoContent || !strings.HasPrefix(header.Get("X-Kemi-Ignored"), "5 string fields") {
		t.Errorf("%d %s %v", status, text, header)
	}
	if got := texts(h); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

// FuzzWrite checks that no body makes the parser panic or forget a line: each is taken, refused, or has strings only.
func FuzzWrite(f *testing.F) {
	for _, s := range []string{
		"cpu,host=a usage=1,idle=2i 1777777770", "a s=\"x\ny\" 1\nb f=1", `a\,b,c\=d=e\ f g\"h=1`, "#x\n\n,\n =\n", "a f=\"\\\" 1\na f=t", "m v=1,v=2,v=\"s\"",
	} {
		f.Add([]byte(s))
	}
	h := collectortest.Open(f, nil)
	f.Fuzz(func(t *testing.T, body []byte) {
		out, err := h.Push.Begin(h.ID, protocol, "", "fuzz")
		if err != nil {
			t.Fatal(err)
		}
		defer out.End()
		p := &parser{out: out, unit: 1, now: now, seed: seed}
		if err := p.parse(t.Context(), body); err != nil {
			t.Fatal(err)
		}
		if p.line > bytes.Count(body, []byte("\n"))+1 {
			t.Errorf("%d lines in %q", p.line, body)
		}
		in := out.Take()
		if in == nil {
			if p.good != 0 {
				t.Errorf("%d samples, but nothing is there", p.good)
			}
			return
		}
		if in.Samples != p.good {
			t.Errorf("%d samples, counted %d", in.Samples, p.good)
		}
		record := in.Record
		record.Local = nil
		if _, err := codec.NewTable(nil, time.Now).Decode(&record); err != nil {
			t.Errorf("the record cannot be read: %v", err)
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	h := collectortest.Open(b, nil)
	const hosts, fields = 100, 10
	var body bytes.Buffer
	for i := range hosts {
		fmt.Fprintf(&body, "cpu,cpu=cpu0,dc=icn1,env=prod,host=web-%d,instance=10.0.0.%d:9100,os=linux,rack=r7,region=kr,service=pay,team=core ", i, i)
		for j := range fields {
			if j > 0 {
				body.WriteByte(',')
			}
			fmt.Fprintf(&body, "usage_%d=%d.25", j, i)
		}
		body.WriteString(" 1777777770000000000\n")
	}
	b.SetBytes(int64(body.Len()))
	b.ReportAllocs()
	for b.Loop() {
		out, _ := h.Push.Begin(h.ID, protocol, "", "bench")
		p := &parser{out: out, unit: 1, now: now, seed: seed}
		if err := p.parse(b.Context(), body.Bytes()); err != nil || p.good != hosts*fields {
			b.Fatal(err, p.good, p.errs)
		}
		out.Take()
		out.End()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/hosts/fields, "ns/sample")
}
