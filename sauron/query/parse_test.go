package query

import (
	"encoding/json"
	"errors"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"kemi"
)

func TestParseTime(t *testing.T) {
	seoul, err := time.LoadLocation("Asia/Seoul")
	if err != nil {
		t.Fatal(err)
	}
	now := kemi.MillisOf(testNow)
	for _, c := range []struct {
		in   string
		loc  *time.Location
		want kemi.Millis // -1: refused
	}{
		{"0", nil, 0}, {"1515900000", nil, 1515900000_000}, {"1515917973043", nil, 1515917973043}, {"1515917973043ms", nil, 1515917973043}, {"5ms", nil, 5},
		{"1515900000.5", nil, 1515900000_500}, {"1515900000.043", nil, 1515900000_043}, {"15159000000", nil, 15159000000},
		{"now", nil, now}, {"NOW", nil, now}, {"1h-ago", nil, now - 3_600_000}, {"15M-AGO", nil, now - 900_000}, {"1d-ago", nil, now - 86_400_000}, {"500ms-ago", nil, now - 500},
		{"1w-ago", nil, now - 7*86_400_000}, {"1n-ago", nil, now - 30*86_400_000}, {"1y-ago", nil, now - 365*86_400_000}, {"30s-ago", nil, now - 30_000},
		{"2018/01/14", nil, 1515888000_000}, {"2018/01/14-08:15", nil, 1515917700_000}, {"2018/01/14 08:15", nil, 1515917700_000}, {"2018/01/14-08:15:33", nil, 1515917733_000},
		{"2018/01/14 08:15:33", nil, 1515917733_000}, {"2018/01/14-08:15:33", seoul, 1515917733_000 - 9*3_600_000},
		{"", nil, -1}, {"x", nil, -1}, {"-1", nil, -1}, {"1.5", nil, -1}, {"1515900000.1234", nil, -1}, {"1515900000.", nil, -1}, {"9999999999999999999999", nil, -1},
		{"1x-ago", nil, -1}, {"-ago", nil, -1}, {"0h-ago", nil, -1}, {"1.5h-ago", nil, -1}, {"100y-ago", nil, -1}, {"2018/1/14", nil, -1}, {"2018/02/30", nil, -1}, {"08:15", nil, -1},
		{"2018/01/14T08:15:33", nil, -1}, {"1960/01/01", nil, -1}, {"2018/01/14-25:00", nil, -1},
	} {
		got, err := ParseTime(c.in, c.loc, testNow)
		if c.want < 0 {
			if !errors.Is(err, kemi.ErrInvalid) {
				t.Errorf("%q: %d %v, want it refused", c.in, got, err)
			}
		} else if err != nil || got != c.want {
			t.Errorf("%q: %d %v, want %d", c.in, got, err, c.want)
		}
	}
}

func TestCalendar(t *testing.T) {
	for _, c := range []struct{ interval, zone, at, from, next string }{
		{"1d", "UTC", "2018-01-14T08:15:33Z", "2018-01-14T00:00:00Z", "2018-01-15T00:00:00Z"},
		{"1d", "Asia/Seoul", "2018-01-14T18:00:00Z", "2018-01-14T15:00:00Z", "2018-01-15T15:00:00Z"},
		{"1d", "America/New_York", "2018-03-11T12:00:00Z", "2018-03-11T05:00:00Z", "2018-03-12T04:00:00Z"},  // 23 hours
		{"1d", "America/New_York", "2018-11-04T12:00:00Z", "2018-11-04T04:00:00Z", "2018-11-05T05:00:00Z"},  // 25 hours
		{"1d", "America/Sao_Paulo", "2018-11-04T12:00:00Z", "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"}, // midnight is skipped
		{"1h", "Asia/Kolkata", "2018-01-14T08:15:33Z", "2018-01-14T07:30:00Z", "2018-01-14T08:30:00Z"},
		{"6h", "Asia/Seoul", "2018-01-14T08:15:33Z", "2018-01-14T03:00:00Z", "2018-01-14T09:00:00Z"},
		{"7h", "UTC", "2018-01-14T08:15:33Z", "2018-01-14T03:00:00Z", "2018-01-14T10:00:00Z"},
		{"15m", "UTC", "2018-01-14T08:16:33Z", "2018-01-14T08:15:00Z", "2018-01-14T08:30:00Z"},
		{"7m", "UTC", "2018-01-14T00:08:00Z", "2018-01-14T00:07:00Z", "2018-01-14T00:14:00Z"},
		{"10s", "UTC", "2018-01-14T08:16:33Z", "2018-01-14T08:16:30Z", "2018-01-14T08:16:40Z"},
		{"250ms", "UTC", "2018-01-14T08:16:33.6Z", "2018-01-14T08:16:33.5Z", "2018-01-14T08:16:33.75Z"},
		{"1w", "UTC", "2018-01-18T08:15:33Z", "2018-01-14T00:00:00Z", "2018-01-21T00:00:00Z"},
		{"1w", "UTC", "2018-01-14T00:00:00Z", "2018-01-14T00:00:00Z", "2018-01-21T00:00:00Z"},
		{"1n", "Asia/Seoul", "2018-01-31T16:00:00Z", "2018-01-31T15:00:00Z", "2018-02-28T15:00:00Z"},
		{"3n", "UTC", "2018-05-14T08:15:33Z", "2018-04-01T00:00:00Z", "2018-07-01T00:00:00Z"},
		{"1y", "UTC", "2018-05-14T08:15:33Z", "2018-01-01T00:00:00Z", "2019-01-01T00:00:00Z"},
		{"3d", "UTC", "2018-01-05T08:15:33Z", "2018-01-04T00:00:00Z", "2018-01-07T00:00:00Z"},
	} {
		n, u, err := splitDuration(c.interval)
		if err != nil {
			t.Fatal(err)
		}
		loc, err := location(c.zone)
		if err != nil {
			t.Fatal(err)
		}
		at, err := time.Parse(time.RFC3339, c.at)
		if err != nil {
			t.Fatal(err)
		}
		from := previousInterval(at.UnixMilli(), n, u, loc)
		next := addCalendar(from, n, u, loc)
		show := func(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.999Z") }
		if show(from) != c.from || show(next) != c.next {
			t.Errorf("%s in %s at %s: %s … %s, want %s … %s", c.interval, c.zone, c.at, show(from), show(next), c.from, c.next)
		}
	}
}

func TestPercentiles(t *testing.T) {
	ten := []float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	for _, c := range []struct {
		p    float64
		e    estimation
		want float64
	}{
		{50, legacy, 5.5}, {90, legacy, 9.9}, {95, legacy, 10}, {50, r3, 5}, {75, r3, 8}, {95, r3, 10}, {50, r7, 5.5}, {75, r7, 7.75}, {90, r7, 9.1}, {99.9, r7, 9.991},
	} {
		if got := percentile(ten, c.p, c.e); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("p%g estimation %d: %g, want %g", c.p, c.e, got, c.want)
		}
	}
	for _, e := range []estimation{legacy, r3, r7} {
		if got := percentile([]float64{7}, 50, e); got != 7 {
			t.Errorf("of one value, estimation %d: %g", e, got)
		}
	}
}

func TestWildcard(t *testing.T) {
	for _, c := range []struct {
		pattern, value string
		want           bool
	}{
		{"*", "x", true}, {"web*", "web01", true}, {"web*", "aweb", false}, {"*01", "web01", true}, {"*01", "web010", false}, {"*eb*", "web", true}, {"*x*", "web", false},
		{"web*.tokyo*", "web01.tokyo.a", true}, {"*b*1", "web01", true}, {"*b*1", "web012", false}, {"w*1", "web10", true}, {"b*w", "web", false}, {"***", "x", true}, {"WEB*", "web", false},
	} {
		f, err := Filter{Type: "wildcard", Tagk: "host", Filter: c.pattern}.compile("host")
		if err != nil {
			t.Fatal(err)
		}
		m := newMemory()
		m.add("default", kemi.LabelsOf("host", c.value), 1, 1)
		found, err := m.find(testID, f.matchers, allTime)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(found) == 1 && (f.match == nil || f.match(c.value)); got != c.want {
			t.Errorf("%q on %q: %v, want %v", c.pattern, c.value, got, c.want)
		}
		if f, err = (Filter{Type: "iwildcard", Tagk: "host", Filter: strings.ToUpper(c.pattern)}).compile("host"); err != nil {
			t.Fatal(err)
		}
		if found, err = m.find(testID, f.matchers, allTime); err != nil {
			t.Fatal(err)
		}
		if got := len(found) == 1 && (f.match == nil || f.match(c.value)); got != c.want && c.pattern != "WEB*" {
			t.Errorf("iwildcard %q on %q: %v, want %v", c.pattern, c.value, got, c.want)
		}
	}
}

func TestFormsAgree(t *testing.T) {
	u, err := url.ParseQuery("start=1515900000&end=1515900100&ms&arrays&show_query&tz=Asia/Seoul&m=avg:explicit_tags:1m-sum-nan:rate{counter,255,7}:sys.cpu{host=a|b,dc=web*}{env=not_literal_or(x|y),rack=regexp(^r[1,2]=:$)}")
	if err != nil {
		t.Fatal(err)
	}
	a, err := ParseURL(u, testNow)
	if err != nil {
		t.Fatal(err)
	}
	b, err := ParseJSON([]byte(`{"start":"1515900000","end":1.5159001e9,"msResolution":true,"arrays":1,"showQuery":"true","timezone":"Asia/Seoul","queries":[{
		"aggregator":"avg","metric":"sys.cpu","downsample":"1m-sum-nan","rate":true,"explicitTags":true,"rateOptions":{"isCounter":true,"counterMax":"255","resetValue":7.0},"filters":[
		{"type":"not_literal_or","tagk":"env","filter":"x|y"},{"type":"regexp","tagk":"rack","filter":"^r[1,2]=:$","groupby":false},
		{"type":"literal_or","tagk":"host","filter":"a|b","groupBy":true},{"type":"iwildcard","tagk":"dc","filter":"web*","group_by":true}]}]}`), testNow)
	if err != nil {
		t.Fatal(err)
	}
	if f := &a.Queries[0].Filters[3]; f.shown != "wildcard" {
		t.Errorf("%+v: OpenTSDB calls it a wildcard", f)
	} else {
		f.shown = ""
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("\n%+v\n%+v", a, b)
	}
}

func TestLacksOnlyBrace(t *testing.T) {
	for body, want := range map[string]bool{
		`{"queries":[{}]`: true, `{"a":{}`: true, `{"a":{} ` + "\n": true, `{"a":"}"`: false, `{"a":[{}`: false, `{"a":1`: false, `{`: false, `{}`: false, `[{}`: false, `{"a":"\"}`: false, ``: false, `}`: false, `{"a":[]]`: false,
	} {
		if lacksOnlyBrace([]byte(body)) != want {
			t.Errorf("%s: %v", body, !want)
		}
	}
}

func bodies(f *testing.F) (out []string) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, part := range strings.Split(string(raw), "\npost ")[1:] {
			_, part, _ = strings.Cut(part, "\n")
			body, _, _ := strings.Cut(part, "----")
			out = append(out, body)
		}
	}
	return out
}

// ask answers a request that was parsed; whatever it says, there is an answer in valid JSON or an error that is not internal.
func ask(t *testing.T, e *Engine, r Request, err error) {
	if err == nil {
		var results []Result
		var stats Stats
		if results, stats, err = e.Query(t.Context(), testID, r); err == nil {
			var out strings.Builder
			if err := WriteJSON(&out, &r, results, nil, stats); err != nil || !json.Valid([]byte(out.String())) {
				t.Fatalf("answer %s: %v", out.String(), err)
			}
			return
		}
	}
	if code := kemi.HTTPStatus(err); code >= 500 {
		t.Fatalf("error of kind %d: %v", code, err)
	}
}

func smallEngine(tb testing.TB) *Engine {
	m := newMemory()
	for _, l := range []string{"sys.cpu{host=web01,dc=a} 1515900000 10s: 1 2 4 7 11", "sys.cpu{host=web02} 1515900005 10s: 10 20 30 40", "data.load.avg_5m{host=dkos-marathon} 1515918600 1m: 1 2 3"} {
		if err := m.load(l); err != nil {
			tb.Fatal(err)
		}
	}
	return newEngine(tb, m, func(o *Options) { o.Config = DefaultConfig(); o.Config.MaxPoints, o.Config.MaxMemory = 20_000, 8<<20 })
}

func FuzzJSON(f *testing.F) {
	for _, b := range bodies(f) {
		f.Add([]byte(b))
	}
	e := smallEngine(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := ParseJSON(body, testNow)
		ask(t, e, r, err)
	})
}

func FuzzURL(f *testing.F) {
	for _, q := range []string{
		"start=1h-ago&m=sum:sys.cpu", "start=1515900000&end=1515900100&m=sum:20s-avg:rate{counter,1,2}:sys.cpu{host=*}{dc=literal_or(a)}&ms&arrays",
		"start=2018/01/14&tz=Asia/Seoul&m=none:1dc-count-nan:-{metric=sys.*}", "start=0&m=p95:0all-p99:sys.cpu{host=regexp(web.*)}", "m=:::::", "start=1&m={", "start=1&m=sum:rate{:x",
	} {
		f.Add(q)
	}
	e := smallEngine(f)
	f.Fuzz(func(t *testing.T, q string) {
		v, err := url.ParseQuery(q)
		if err != nil {
			return
		}
		r, err := ParseURL(v, testNow)
		ask(t, e, r, err)
	})
}

func FuzzTime(f *testing.F) {
	for _, s := range []string{"now", "1h-ago", "1515900000", "1515917973043", "1515900000.043", "2018/01/14-08:15:33", "2018/01/14", "5ms", "99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		at, err := ParseTime(s, nil, testNow)
		if err != nil && !errors.Is(err, kemi.ErrInvalid) || err == nil && (at < 0 || at > maxTime) {
			t.Fatalf("%q: %d %v", s, at, err)
		}
	})
}

func FuzzDownsample(f *testing.F) {
	for _, s := range []string{"15m-max", "1m-avg-nan", "0all-sum", "1dc-sum-null", "1wc-p95-zero", "1h-sum-scalar(-1.5)", "1n-dev-none", "7hc-first"} {
		f.Add(s, int64(1515900000_000), "Asia/Seoul")
	}
	f.Fuzz(func(t *testing.T, s string, at int64, zone string) {
		d, err := parseDownsample(s)
		if err != nil {
			if !errors.Is(err, kemi.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		loc, err := location(zone)
		if err != nil || d.kind != downCalendar && d.kind != downFixed || at < 0 || at > int64(maxTime) {
			return
		}
		from := previousInterval(at, d.count, d.unit, loc)
		next := addCalendar(from, d.count, d.unit, loc)
		if from > at || next <= from {
			t.Fatalf("%s in %s at %d: %d … %d", s, zone, at, from, next)
		}
	})
}
