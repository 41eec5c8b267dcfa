package tsd_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"
)

// request is one question of testdata/requests/*.txt: the method and the target, headers, and a body. A file is such questions with an empty line
// between them; lines that begin with # are remarks. They are asked in the order of the files, as some of them change what is there.
//
// In targets and bodies ${now-60} is a time in seconds, ${tsuid metric{k=v}} the TSUID of a series and ${uid metric name} the UID of a name.
type request struct {
	file, method, target, body string
	header                     http.Header
}

func (q request) key() string {
	k := q.method + " " + q.target
	for name, v := range q.header {
		k += " [" + name + ": " + v[0] + "]"
	}
	return strings.TrimSpace(k + " " + q.body)
}

// answer is what was said to a request. Body is JSON, or a JSON string of what is no JSON.
type answer struct {
	Request string          `json:"request"`
	Status  int             `json:"status"`
	Type    string          `json:"type,omitempty"`
	Body    json.RawMessage `json:"body,omitempty"`
}

var methods = []string{"GET ", "POST ", "PUT ", "DELETE ", "PATCH ", "HEAD ", "OPTIONS "}

func readRequests(t *testing.T, file string) []request {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []request
	for _, block := range strings.Split(string(raw), "\n\n") {
		lines := strings.Split(strings.Trim(block, "\n"), "\n")
		lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, "#") })
		if len(lines) == 0 || lines[0] == "" {
			continue
		}
		if !slices.ContainsFunc(methods, func(m string) bool { return strings.HasPrefix(lines[0], m) }) {
			t.Fatalf("%s: not a request: %s", file, lines[0])
		}
		q := request{file: strings.TrimSuffix(filepath.Base(file), ".txt"), header: http.Header{}}
		q.method, q.target, _ = strings.Cut(lines[0], " ")
		lines = lines[1:]
		for len(lines) > 0 && regexp.MustCompile(`^[A-Z][A-Za-z-]+: `).MatchString(lines[0]) {
			name, v, _ := strings.Cut(lines[0], ": ")
			q.header.Set(name, v)
			lines = lines[1:]
		}
		q.body = strings.Join(lines, "\n")
		out = append(out, q)
	}
	return out
}

// peer is a server that speaks OpenTSDB: a real one, or ours.
type peer struct {
	t      *testing.T
	base   string
	header http.Header
	client *http.Client
	now    int64             // what ${now} is, in seconds
	tsuids map[string]string // by metric{k=v,…}
	names  map[string]string // the reverse
	uids   map[string]string // by "kind name"
}

func newPeer(t *testing.T, base, token string) *peer {
	p := &peer{
		t: t, base: base, header: http.Header{}, client: &http.Client{Timeout: 20 * time.Second}, now: time.Now().Unix() / 60 * 60,
		tsuids: map[string]string{}, names: map[string]string{}, uids: map[string]string{},
	}
	if token != "" {
		p.header.Set("Authorization", "Bearer "+token)
	}
	return p
}

var (
	nowVar  = regexp.MustCompile(`\$\{now([+-]\d+)?\}`)
	idVar   = regexp.MustCompile(`\$\{(tsuid|uid) ([^{}]*(?:\{[^{}]*\})?)\}`)
	escapes = strings.NewReplacer(" ", "%20", "|", "%7C", "{", "%7B", "}", "%7D", "^", "%5E", "\"", "%22", "[", "%5B", "]", "%5D", "#", "%23", "<", "%3C", ">", "%3E")
)

func (p *peer) expand(s string) string {
	s = nowVar.ReplaceAllStringFunc(s, func(v string) string {
		d, _ := strconv.ParseInt(nowVar.FindStringSubmatch(v)[1], 10, 64)
		return strconv.FormatInt(p.now+d, 10)
	})
	return idVar.ReplaceAllStringFunc(s, func(v string) string {
		m := idVar.FindStringSubmatch(v)
		if m[1] == "uid" {
			return p.uid(m[2])
		}
		return p.tsuid(m[2])
	})
}

// do asks; a status of 0 is no answer at all.
func (p *peer) do(q request) (status int, typ string, body []byte) {
	p.t.Helper()
	send := []byte(p.expand(q.body))
	if q.header.Get("Content-Encoding") == "gzip" {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(send)
		_ = z.Close()
		send = b.Bytes()
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	defer cancel()
	var in io.Reader
	if len(send) > 0 {
		in = bytes.NewReader(send)
	}
	req, err := http.NewRequestWithContext(ctx, q.method, p.base, in)
	if err != nil {
		p.t.Fatal(err)
	}
	path, query, _ := strings.Cut(p.expand(q.target), "?")
	req.URL = &url.URL{Scheme: req.URL.Scheme, Host: req.URL.Host, Path: path, RawQuery: escapes.Replace(query)}
	if len(send) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range []http.Header{q.header, p.header} {
		for k, v := range h {
			req.Header[k] = v
		}
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return 0, "", nil
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	if err != nil {
		return 0, "", nil
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), body
}

// tsuid looks up the TSUID of the series metric{k=v,…}.
func (p *peer) tsuid(series string) string {
	if id, ok := p.tsuids[series]; ok {
		return id
	}
	metric, _, _ := strings.Cut(series, "{")
	code, _, body := p.do(request{method: "GET", target: "/api/search/lookup?limit=1000&m=" + metric})
	var found struct {
		Results []struct {
			TSUID, Metric string
			Tags          map[string]string
		}
	}
	if err := json.Unmarshal(body, &found); err != nil || code != 200 {
		p.t.Fatalf("look-up of %s: %d %s", series, code, body)
	}
	for _, r := range found.Results {
		var tags []string
		for k, v := range r.Tags {
			tags = append(tags, k+"="+v)
		}
		sort.Strings(tags)
		name := r.Metric + "{" + strings.Join(tags, ",") + "}"
		p.tsuids[name], p.names[r.TSUID] = r.TSUID, name
	}
	id, ok := p.tsuids[series]
	if !ok {
		p.t.Fatalf("%s is not among %s", series, body)
	}
	return id
}

// uid is the UID of a name, which is told when one tries to assign it anew.
func (p *peer) uid(kindName string) string {
	if id, ok := p.uids[kindName]; ok {
		return id
	}
	kind, name, _ := strings.Cut(kindName, " ")
	_, _, body := p.do(request{method: "GET", target: "/api/uid/assign?" + kind + "=" + name})
	m := regexp.MustCompile(`UID: ([0-9A-F]+)`).FindSubmatch(body)
	if m == nil {
		p.t.Fatalf("UID of %s: %s", kindName, body)
	}
	p.uids[kindName] = string(m[1])
	return string(m[1])
}

// load puts testdata/data.txt.
func (p *peer) load() {
	p.t.Helper()
	raw, err := os.ReadFile("testdata/data.txt")
	if err != nil {
		p.t.Fatal(err)
	}
	type series struct {
		metric, tags, at, step string
		values                 []string
	}
	var all []series
	names := [3]map[string]bool{{}, {}, {}}
	for _, line := range strings.Split(strings.TrimSpace(string(raw)), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		head, values, _ := strings.Cut(line, ": ")
		f := strings.Fields(p.expand(head))
		s := series{at: f[1], step: f[2], values: strings.Fields(values)}
		s.metric, s.tags, _ = strings.Cut(strings.TrimSuffix(f[0], "}"), "{")
		names[0][s.metric] = true
		for _, tag := range strings.Split(s.tags, ",") {
			k, v, _ := strings.Cut(tag, "=")
			names[1][k], names[2][v] = true, true
		}
		all = append(all, s)
	}
	// OpenTSDB orders by when names were first seen; here they come in their own order.
	for i, kind := range []string{"metric", "tagk", "tagv"} {
		var list []string
		for n := range names[i] {
			list = append(list, n)
		}
		sort.Strings(list)
		b, _ := json.Marshal(map[string]any{kind: list})
		if code, _, body := p.do(request{method: "POST", target: "/api/uid/assign", body: string(b)}); code != 200 {
			p.t.Fatalf("assign: %d %s", code, body)
		}
	}
	var points []string
	put := func() {
		if len(points) == 0 {
			return
		}
		if code, _, body := p.do(request{method: "POST", target: "/api/put?sync&details", body: "[" + strings.Join(points, ",") + "]"}); code != 200 {
			p.t.Fatalf("put: %d %s", code, body)
		}
		points = nil
	}
	for _, s := range all {
		at, _ := strconv.ParseInt(s.at, 10, 64)
		step, err := time.ParseDuration(s.step)
		if err != nil {
			p.t.Fatal(err)
		}
		add := int64(step.Seconds())
		if at > 1e12 {
			add = step.Milliseconds()
		}
		tags := map[string]string{}
		for _, tag := range strings.Split(s.tags, ",") {
			k, v, _ := strings.Cut(tag, "=")
			tags[k] = v
		}
		b, _ := json.Marshal(tags)
		for _, v := range s.values {
			if v != "_" {
				points = append(points, fmt.Sprintf(`{"metric":%q,"timestamp":%d,"value":%s,"tags":%s}`, s.metric, at, v, b))
			}
			at += add
		}
		if len(points) > 30 {
			put()
		}
	}
	put()
	for _, s := range all {
		p.tsuid(s.metric + "{" + s.tags + "}")
	}
}

// ask is the answer to q in the form in which answers are kept and compared.
func (p *peer) ask(q request) answer {
	p.t.Helper()
	code, typ, body := p.do(q)
	a := answer{Request: q.key(), Status: code, Type: typ}
	if len(body) == 0 {
		return a
	}
	var v any
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&v); err != nil || d.More() {
		v = string(body)
	}
	if path, _, _ := strings.Cut(q.target, "?"); slices.ContainsFunc(shapesOnly, func(s string) bool { return strings.HasPrefix(path, s) }) && code == 200 {
		v = shape(v)
	}
	v = p.neutral(v, "")
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		p.t.Fatal(err)
	}
	a.Body = bytes.TrimSpace(b.Bytes())
	return a
}

// shapesOnly are paths whose answers are of one server alone: the same names of fields are wanted, not the same values.
var shapesOnly = []string{"/api/stats", "/api/version"}

// shape is v without values: of an array, what its elements have.
func shape(v any) any {
	switch x := v.(type) {
	case map[string]any:
		for k := range x {
			if k == "tags" {
				x[k] = "any"
				continue
			}
			x[k] = shape(x[k])
		}
		return x
	case []any:
		if len(x) == 0 {
			return x
		}
		return []any{shape(x[0])}
	case string:
		return "text"
	case json.Number:
		return "number"
	}
	return v
}

var (
	hexID   = regexp.MustCompile(`\b[0-9A-F]{6}(?:[0-9A-F]{12})*\b`)
	number  = regexp.MustCompile(`^-?\d+$`)
	elapsed = []string{"time", "created", "totalDatapoints", "lastReceived"}
)

// neutral takes out of an answer what no other server would say: times near now, ids, durations, traces of a stack.
func (p *peer) neutral(v any, field string) any {
	switch x := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, e := range x {
			if k == "trace" {
				continue
			}
			if slices.Contains(elapsed, k) {
				out[k] = "…"
				continue
			}
			out[p.text(k)] = p.neutral(e, k)
		}
		return out
	case []any:
		for i := range x {
			x[i] = p.neutral(x[i], field)
		}
		return x
	case string:
		return p.text(x)
	case json.Number:
		if number.MatchString(x.String()) {
			if s := p.text(x.String()); s != x.String() {
				return s
			}
		}
		return x
	}
	return v
}

func (p *peer) text(s string) string {
	if name, ok := p.names[s]; ok {
		return "<" + name + ">"
	}
	if len(s) == 6 && s[0] == '0' && number.MatchString(s) { // a UID that happens to have no letters
		return "<id of 3 bytes>"
	}
	if number.MatchString(s) {
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			unit := int64(1)
			if n > 1e11 {
				unit = 1000
			}
			if d := n - p.now*unit; d > -90000*unit && d < 90000*unit {
				return fmt.Sprintf("now%+d", d)
			}
		}
		return s
	}
	return hexID.ReplaceAllStringFunc(s, func(id string) string {
		if name, ok := p.names[id]; ok {
			return "<" + name + ">"
		}
		if strings.Contains(id, "FF") && len(id) >= 6 {
			return id
		}
		return "<id of " + strconv.Itoa(len(id)/2) + " bytes>"
	})
}

// same compares answers by what they say: numbers by their value, and series in any order.
func same(q request, got, want answer) bool {
	if got.Status != want.Status {
		return false
	}
	if len(want.Body) > 0 && mediaType(got.Type) != mediaType(want.Type) {
		return false
	}
	var g, w any
	if len(got.Body) == 0 || len(want.Body) == 0 {
		return len(got.Body) == len(want.Body)
	}
	if json.Unmarshal(got.Body, &g) != nil || json.Unmarshal(want.Body, &w) != nil {
		return false
	}
	return equal(sorted(g), sorted(w))
}

func mediaType(s string) string {
	s, _, _ = strings.Cut(s, ";")
	return strings.ToLower(s)
}

// sorted brings lists whose order says nothing into one: series, tag keys, names of aggregators.
func sorted(v any) any {
	switch x := v.(type) {
	case map[string]any:
		if e, ok := x["error"].(map[string]any); ok {
			delete(e, "details") // in our own words
		}
		for k := range x {
			x[k] = sorted(x[k])
		}
	case []any:
		for i := range x {
			x[i] = sorted(x[i])
		}
		sort.SliceStable(x, func(i, j int) bool { return orderOf(x[i]) < orderOf(x[j]) })
	}
	return v
}

func orderOf(v any) string {
	switch x := v.(type) {
	case map[string]any:
		return fmt.Sprint(x["metric"], x["tags"], x["aggregateTags"], x["startTime"], x["tsuid"], x["tsuids"])
	case string:
		return x
	}
	return ""
}

func equal(g, w any) bool {
	switch x := w.(type) {
	case map[string]any:
		y, ok := g.(map[string]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for k := range x {
			if _, ok := y[k]; !ok || !equal(y[k], x[k]) {
				return false
			}
		}
		return true
	case []any:
		y, ok := g.([]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for i := range x {
			if !equal(y[i], x[i]) {
				return false
			}
		}
		return true
	case float64:
		y, ok := g.(float64)
		return ok && (x == y || math.Abs(x-y) <= 1e-12*math.Max(math.Abs(x), math.Abs(y)))
	}
	return reflect.DeepEqual(g, w)
}
