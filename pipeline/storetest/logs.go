package storetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"kemi"
	"kemi/pipeline/bus"
	"kemi/pipeline/store"
)

// OpenLogs opens a log store in a folder, where another may have been before.
type OpenLogs func(tb testing.TB, dir string) store.LogStore

// Logs is what every store.LogStore has to do.
func Logs(t *testing.T, open OpenLogs) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, *logStore)
	}{
		{"IndexAndSearch", logsIndexAndSearch},
		{"Order", logsOrder},
		{"Lossless", logsLossless},
		{"Korean", logsKorean},
		{"Projects", logsProjects},
		{"Replace", logsReplace},
		{"Redelivery", logsRedelivery},
		{"Reopen", logsReopen},
		{"Histogram", logsHistogram},
		{"FieldsAndCount", logsFieldsAndCount},
		{"Large", logsLarge},
		{"BadQueries", logsBadQueries},
		{"Cancel", logsCancel},
		{"Concurrent", logsConcurrent},
		{"Random", logsRandom},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &logStore{T: t, open: open, dir: t.TempDir(), model: map[string]kemi.LogRecord{}}
			s.LogStore = open(t, s.dir)
			t.Cleanup(func() { s.close() })
			c.run(t, s)
		})
	}
}

// logStore is a store under test with what it should hold.
type logStore struct {
	store.LogStore
	*testing.T
	open  OpenLogs
	dir   string
	next  int64
	model map[string]kemi.LogRecord // by project, 0, ID
}

func (s *logStore) close() {
	if s.LogStore != nil {
		if err := s.LogStore.Close(); err != nil {
			s.Errorf("close: %v", err)
		}
		s.LogStore = nil
	}
}

func (s *logStore) reopen() {
	s.Helper()
	s.close()
	s.LogStore = s.open(s, s.dir)
}

func reader(project string) kemi.Identity {
	return kemi.Identity{Subject: "test", Project: project, Permissions: kemi.AllPermissions}
}

// index adds records, to the model too.
func (s *logStore) index(records ...kemi.LogRecord) {
	s.Helper()
	s.next++
	if err := s.Index(context.Background(), records, store.Position{Next: s.next}); err != nil {
		s.Fatalf("index: %v", err)
	}
	for _, r := range records {
		s.model[r.Project+"\x00"+r.ID] = r
	}
}

var allTime = store.NanoRange{From: -1 << 62, To: 1 << 62}

func collectLogs(seq iter.Seq2[kemi.LogRecord, error]) ([]kemi.LogRecord, error) {
	var out []kemi.LogRecord
	for r, err := range seq {
		if err != nil {
			return out, err
		}
		out = append(out, r)
	}
	return out, nil
}

// expected is what the model answers.
func (s *logStore) expected(project string, q store.LogQuery) []kemi.LogRecord {
	var out []kemi.LogRecord
	for _, r := range s.model {
		if r.Project == project && r.At >= q.Range.From && r.At < q.Range.To && (q.Expr == nil || q.Expr.Match(&r)) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b kemi.LogRecord) int {
		c := strings.Compare(a.ID, b.ID)
		if a.At != b.At {
			c = 1
			if a.At < b.At {
				c = -1
			}
		}
		if !q.Ascending {
			c = -c
		}
		return c
	})
	if q.Limit > 0 && len(out) > q.Limit {
		out = out[:q.Limit]
	}
	return out
}

func sameLog(a, b kemi.LogRecord) bool {
	return a.ID == b.ID && a.Project == b.Project && a.At == b.At && a.Severity == b.Severity && a.Body == b.Body &&
		a.TraceID == b.TraceID && a.SpanID == b.SpanID && a.Stream.Compare(b.Stream) == 0 && a.Attrs.Compare(b.Attrs) == 0
}

// check asks the store and compares with the model; it returns how many records matched.
func (s *logStore) check(project string, q store.LogQuery) int {
	s.Helper()
	got, err := collectLogs(s.Search(context.Background(), reader(project), q))
	if err != nil {
		s.Fatalf("search %v: %v", q.Expr, err)
	}
	want := s.expected(project, q)
	if !slices.EqualFunc(got, want, sameLog) {
		s.Fatalf("search %v in %v, limit %d, ascending %t: %d records, want %d\ngot  %v\nwant %v", q.Expr, q.Range, q.Limit, q.Ascending, len(got), len(want), brief(got), brief(want))
	}
	return len(want)
}

func brief(rs []kemi.LogRecord) string {
	var b strings.Builder
	for i, r := range rs {
		if i == 8 {
			b.WriteString("…")
			break
		}
		fmt.Fprintf(&b, "%s@%d %.60q; ", r.ID, r.At, r.Body)
	}
	return b.String()
}

func (s *logStore) checkAll(project string) {
	s.Helper()
	s.check(project, store.LogQuery{Range: allTime, Ascending: true})
}

func line(id string, at kemi.Nanos, body string) kemi.LogRecord {
	return kemi.LogRecord{ID: id, Project: "default", At: at, Body: body}
}

func logsIndexAndSearch(t *testing.T, s *logStore) {
	s.index(
		kemi.LogRecord{ID: "a-1", Project: "default", At: 10, Severity: kemi.SeverityError, Stream: kemi.LabelsOf("service", "pay", "host", "web01"), Attrs: kemi.LabelsOf("status", "503"), Body: "connection reset by peer after 12ms"},
		kemi.LogRecord{ID: "a-2", Project: "default", At: 20, Severity: kemi.SeverityInfo, Stream: kemi.LabelsOf("service", "pay", "host", "web02"), Attrs: kemi.LabelsOf("status", "200"), Body: "GET /health 200", TraceID: "0af7651916cd43dd8448eb211c80319c", SpanID: "b7ad6b7169203331"},
		kemi.LogRecord{ID: "a-3", Project: "default", At: 30, Stream: kemi.LabelsOf("service", "order", "level", "odd"), Body: "connection closed; retry req-77f"},
	)
	lo, hi := "300", "599"
	cases := []struct {
		e    store.LogExpr
		want int
	}{
		{nil, 3}, {store.LogAnd{}, 3}, {store.LogOr{}, 0}, {store.LogPhrase{Text: "connection"}, 2}, {store.LogPhrase{Text: "connection reset"}, 1},
		{store.LogPhrase{Text: "12ms"}, 1}, {store.LogPhrase{Text: "req-77f"}, 1}, {store.LogPhrase{Text: "77e"}, 0}, {store.LogPhrase{Text: "absent"}, 0},
		{store.LogPrefix{Prefix: "conn"}, 2}, {store.LogPrefix{Prefix: "12"}, 1}, {store.LogPrefix{Prefix: "77"}, 1}, {store.LogPrefix{Prefix: "connectionx"}, 0}, {store.LogPrefix{Prefix: "re"}, 2},
		{store.LogPhrase{Field: "service", Text: "pay"}, 2}, {store.LogPhrase{Field: "level", Text: "error"}, 1}, {store.LogPhrase{Field: "level", Text: "odd"}, 1},
		{store.LogPhrase{Field: "host", Text: "WEB01"}, 1}, {store.LogPrefix{Field: "host", Prefix: "web"}, 2}, {store.LogPrefix{Field: "host", Prefix: "web0"}, 2},
		{store.LogRange{Field: "status", Min: &lo, Max: &hi}, 1}, {store.LogExists{Field: "status"}, 2}, {store.LogExists{Field: "nope"}, 0}, {store.LogExists{}, 3},
		{store.LogRegexp{Source: "re(set|try)"}, 2}, {store.LogRegexp{Field: "host", Source: "0[12]$"}, 2},
		{store.LogNot{X: store.LogPhrase{Text: "connection"}}, 1}, {store.LogPhrase{Field: "trace_id", Text: "0af7651916cd43dd8448eb211c80319c"}, 1},
		{store.LogPhrase{Field: "span_id", Text: "b7ad6b7169203331"}, 1}, {store.LogPhrase{Field: "id", Text: "a-2"}, 1}, {store.LogExists{Field: "trace_id"}, 1},
		{store.LogOr{store.LogPhrase{Text: "health"}, store.LogPhrase{Text: "77f"}}, 2},
		{store.LogAnd{store.LogPhrase{Field: "service", Text: "pay"}, store.LogNot{X: store.LogPhrase{Field: "level", Text: "info"}}}, 1},
	}
	ask := func() {
		t.Helper()
		for _, c := range cases {
			if n := s.check("default", store.LogQuery{Expr: c.e, Range: allTime}); n != c.want {
				t.Errorf("%v: the model finds %d, want %d", c.e, n, c.want)
			}
			if n := s.check("default", store.LogQuery{Expr: c.e, Range: allTime, Ascending: true, Limit: 1}); n != min(1, c.want) {
				t.Errorf("%v with limit 1: %d", c.e, n)
			}
		}
	}
	ask()
	s.reopen()
	ask()
	s.checkAll("default")
	for _, r := range []store.NanoRange{{From: 10, To: 30}, {From: 11, To: 30}, {From: 0, To: 10}, {From: 31, To: 99}, {From: 20, To: 20}, {From: 30, To: 10}} {
		s.check("default", store.LogQuery{Range: r})
	}
}

func logsOrder(t *testing.T, s *logStore) {
	var records []kemi.LogRecord
	for i := range 3000 {
		records = append(records, line(fmt.Sprintf("o-%04d", (i*7919)%3000), kemi.Nanos((i*31)%500), "line"))
	}
	for part := range slices.Chunk(records, 700) {
		s.index(part...)
	}
	for _, asc := range []bool{true, false} {
		for _, limit := range []int{0, 1, 7, 999, 2999, 3000, 5000} {
			s.check("default", store.LogQuery{Range: allTime, Limit: limit, Ascending: asc})
		}
	}
	s.reopen()
	for _, asc := range []bool{true, false} {
		s.check("default", store.LogQuery{Range: store.NanoRange{From: 100, To: 300}, Limit: 800, Ascending: asc})
	}
	// Whoever has enough stops.
	n := 0
	for _, err := range s.Search(context.Background(), reader("default"), store.LogQuery{Range: allTime}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 10 {
			break
		}
	}
}

func logsLossless(t *testing.T, s *logStore) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	bodies := []string{"", "\x00", "\xff\xfe", string(all), "line\nline\r\n\ttab", strings.Repeat("x", 300), "é vs e\u0301", "한글 \xea\xb0", "\U0001F600"}
	var records []kemi.LogRecord
	for i, b := range bodies {
		r := line(fmt.Sprintf("l-%d", i), kemi.Nanos(i), b)
		r.Severity = kemi.Severity(i)
		r.Attrs = kemi.LabelsOf("raw", b, "k\x00\xff", "v", string(all), "w")
		r.Stream = kemi.LabelsOf("s\xff", b)
		records = append(records, r)
	}
	records = append(records,
		kemi.LogRecord{ID: "times", Project: "default", At: -5, Body: "before the epoch"},
		kemi.LogRecord{ID: string(all), Project: "default", At: 1 << 61, Body: "late", TraceID: "not hex at all", SpanID: "\xff"})
	s.index(records...)
	s.checkAll("default")
	s.reopen()
	s.checkAll("default")
	s.check("default", store.LogQuery{Range: allTime, Expr: store.LogPhrase{Field: "k\x00\xff", Text: "v"}})
	s.check("default", store.LogQuery{Range: allTime, Expr: store.LogExists{Field: "s\xff"}})
}

var koreanLines = []string{
	"주문 서비스에서 결제 요청 처리에 실패했습니다: 응답코드 500",
	"사용자 인증 토큰이 만료되어 접근이 거부되었습니다",
	"데이터베이스 연결 시간이 초과되었습니다 (30초)",
	"디스크 사용량이 90%를 넘어서 경보를 발송합니다",
	"컨테이너가 메모리 부족으로 강제 종료됨 OOMKilled",
	"로드밸런서 헬스체크 실패로 인해 서버를 제외했습니다",
	"배포 파이프라인이 정상적으로 완료되었습니다",
	"카카오톡 메시지 전송 지연 발생, 재시도합니다",
	"네트워크 지연으로 인해 응답시간이 증가하고 있습니다",
	"DNS 조회에 실패하여 외부 API를 호출할 수 없습니다",
}

func logsKorean(t *testing.T, s *logStore) {
	for i, l := range koreanLines {
		s.index(line(fmt.Sprint("k-", i), kemi.Nanos(i), l))
	}
	ask := func() {
		t.Helper()
		for query, want := range map[string][]kemi.Nanos{
			"실패": {0, 5, 9}, "결제": {0}, "만료": {1}, "초과": {2}, "사용량": {3}, "경보": {3}, "메모리 부족": {4}, "종료": {4}, "지연": {7, 8},
			"응답시간": {8}, "응답 시간": {8}, "시간": {2, 8}, "완료": {6}, "조회": {9}, "서버": {5}, "메시지": {7}, "발생": {7}, "전송": {7},
			"인증": {1}, "응답": {0, 8}, "연결시간": {2}, "초": {2}, "없는말": nil,
		} {
			var words store.LogAnd
			for _, w := range strings.Fields(query) {
				words = append(words, store.LogPhrase{Text: w})
			}
			for _, e := range []store.LogExpr{words, store.LogPhrase{Text: query}, store.LogPrefix{Prefix: query}} {
				records, err := collectLogs(s.Search(context.Background(), reader("default"), store.LogQuery{Expr: e, Range: allTime, Ascending: true}))
				if err != nil {
					t.Fatal(err)
				}
				var got []kemi.Nanos
				for _, r := range records {
					got = append(got, r.At)
				}
				if !slices.Equal(got, want) {
					t.Errorf("%v finds lines %v, want %v", e, got, want)
				}
			}
		}
	}
	ask()
	s.reopen()
	ask()
}

func logsProjects(t *testing.T, s *logStore) {
	for i, p := range []string{"default", "other", "default", ""} {
		r := line(fmt.Sprint("p-", i/2), kemi.Nanos(i), "shared words")
		r.Project = p
		if p == "" || i == 2 {
			r.ID = fmt.Sprint("q-", i)
		}
		if p == "" {
			if err := s.Index(context.Background(), []kemi.LogRecord{r}, store.Position{Next: s.next}); err != nil {
				t.Fatalf("a record that cannot be taken must not stop the others: %v", err)
			}
			continue
		}
		s.index(r)
	}
	ask := func() {
		t.Helper()
		for _, p := range []string{"default", "other", "third"} {
			s.checkAll(p)
			s.check(p, store.LogQuery{Expr: store.LogPhrase{Text: "shared"}, Range: allTime})
			n, err := s.Count(context.Background(), reader(p), store.LogQuery{Range: allTime}, nil)
			if want := int64(len(s.expected(p, store.LogQuery{Range: allTime}))); err != nil || len(n) != 1 || n[0].Count != want {
				t.Errorf("count of %s: %v %v, want %d", p, n, err, want)
			}
		}
		if _, err := collectLogs(s.Search(context.Background(), kemi.Identity{}, store.LogQuery{Range: allTime})); !errors.Is(err, kemi.ErrDenied) {
			t.Errorf("an identity without a project reads: %v", err)
		}
	}
	ask()
	s.reopen()
	ask()
}

func logsReplace(t *testing.T, s *logStore) {
	s.index(line("r-1", 1, "first one"), line("r-2", 2, "first two"), line("r-3", 3, "first three"))
	s.index(line("r-2", 20, "second two")) // while both are new
	s.checkAll("default")
	s.reopen()
	s.checkAll("default")
	s.index(line("r-1", 10, "second one"), line("r-1", 11, "third one"), line("r-3", 3, "first three"))
	s.checkAll("default")
	s.check("default", store.LogQuery{Expr: store.LogPhrase{Text: "first"}, Range: allTime})
	n, err := s.Histogram(context.Background(), reader("default"), store.LogQuery{Range: store.NanoRange{From: 0, To: 1e6}}, 1)
	if err != nil || len(n) != 1 || n[0].Count != 3 {
		t.Errorf("histogram counts replaced records: %v %v", n, err)
	}
	s.reopen()
	s.checkAll("default")
	s.index(line("r-1", 11, "third one"), line("r-2", 22, "third two"), line("r-3", 33, "second three"))
	s.reopen()
	s.index(line("r-2", 23, "fourth two"))
	s.checkAll("default")
	s.reopen()
	s.checkAll("default")
}

func logsRedelivery(t *testing.T, s *logStore) {
	var batches [][]kemi.LogRecord
	for b := range 20 {
		var rs []kemi.LogRecord
		for i := range 50 {
			rs = append(rs, line(fmt.Sprintf("batch%d-%d", b, i), kemi.Nanos(b*100+i), fmt.Sprint("message ", b, " of ", i)))
		}
		batches = append(batches, rs)
		s.index(rs...)
		if b%7 == 3 {
			s.reopen()
		}
	}
	for b := 19; b >= 0; b -= 3 { // a sender that got no answer sends again, whenever that is
		s.index(batches[b]...)
		s.checkAll("default")
	}
	s.reopen()
	s.checkAll("default")
}

func logsReopen(t *testing.T, s *logStore) {
	for p := range int32(3) {
		for i := range int64(5) {
			r := line(fmt.Sprintf("%d-%d", p, i), kemi.Nanos(i), "x")
			if err := s.Index(context.Background(), []kemi.LogRecord{r}, store.Position{Partition: p, Next: 10*int64(p) + i + 1}); err != nil {
				t.Fatal(err)
			}
			s.model[r.Project+"\x00"+r.ID] = r
		}
	}
	// Records that say nothing still move the position.
	if err := s.Index(context.Background(), nil, store.Position{Partition: 1, Next: 99}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		s.reopen()
		if got, want := s.Positions(), (bus.Positions{0: 5, 1: 99, 2: 25}); !maps.Equal(got, want) {
			t.Fatalf("positions %v, want %v", got, want)
		}
		s.checkAll("default")
	}
	s.close()
	s.LogStore = s.open(t, s.dir)
	s.index(line("later", 7, "y"))
	s.checkAll("default")
}

func logsHistogram(t *testing.T, s *logStore) {
	for i := range 2000 {
		r := line(fmt.Sprintf("h-%04d", i), kemi.Nanos(i)*1e6, fmt.Sprint("n", i%10, " word", string(rune('a'+i%3))))
		r.Severity = kemi.Severity(i % 25)
		s.index(r)
	}
	ask := func() {
		t.Helper()
		for _, c := range []struct {
			e    store.LogExpr
			r    store.NanoRange
			step kemi.Millis
		}{
			{nil, store.NanoRange{From: 0, To: 2000e6}, 1000}, {nil, store.NanoRange{From: 0, To: 2000e6}, 7}, {nil, store.NanoRange{From: 150e6 + 1, To: 1777e6}, 100},
			{store.LogPhrase{Text: "n3"}, store.NanoRange{From: -500e6, To: 3000e6}, 250}, {store.LogPhrase{Text: "wordb"}, store.NanoRange{From: 3, To: 1999e6}, 60_000},
			{store.LogPhrase{Field: "level", Text: "error"}, store.NanoRange{From: 0, To: 2000e6}, 500}, {nil, store.NanoRange{From: 5, To: 5}, 1},
		} {
			q := store.LogQuery{Expr: c.e, Range: c.r, Limit: 3}
			got, err := s.Histogram(context.Background(), reader("default"), q, c.step)
			if err != nil {
				t.Fatal(err)
			}
			q.Limit = 0
			var want []store.LogBucket
			if c.r.To > c.r.From {
				floor := func(n kemi.Nanos) kemi.Millis {
					m := n.Millis()
					return m - ((m%c.step)+c.step)%c.step
				}
				for at := floor(c.r.From); at <= floor(c.r.To-1); at += c.step {
					b := store.LogBucket{At: at}
					for _, r := range s.expected("default", q) {
						if floor(r.At) == at {
							if b.BySeverity == nil {
								b.BySeverity = map[string]int64{}
							}
							b.Count++
							b.BySeverity[r.Severity.String()]++
						}
					}
					want = append(want, b)
				}
			}
			if !slices.EqualFunc(got, want, func(a, b store.LogBucket) bool {
				return a.At == b.At && a.Count == b.Count && maps.Equal(a.BySeverity, b.BySeverity)
			}) {
				t.Fatalf("histogram of %v in %v by %d:\ngot  %v\nwant %v", c.e, c.r, c.step, got, want)
			}
		}
	}
	ask()
	s.reopen()
	ask()
}

func logsFieldsAndCount(t *testing.T, s *logStore) {
	for i := range 600 {
		r := line(fmt.Sprintf("f-%03d", i), kemi.Nanos(i), "body")
		r.Severity = []kemi.Severity{0, kemi.SeverityInfo, kemi.SeverityError}[i%3]
		r.Stream = kemi.LabelsOf("service", fmt.Sprint("s", i%4))
		r.Attrs = kemi.LabelsOf("user", fmt.Sprint("u", i%50), "service", "hidden by the stream")
		if i%2 == 0 {
			r.Attrs = kemi.LabelsOf("even", "yes", "n", fmt.Sprint(i))
		}
		s.index(r)
	}
	ask := func() {
		t.Helper()
		e := store.LogNot{X: store.LogPhrase{Field: "service", Text: "s3"}}
		q := store.LogQuery{Expr: e, Range: store.NanoRange{From: 100, To: 500}, Limit: 2}
		counts := map[string]map[string]int64{}
		groups := map[string]int64{}
		all := store.LogQuery{Expr: e, Range: q.Range}
		for _, r := range s.expected("default", all) {
			for _, name := range []string{"level", "service", "user", "even", "n"} {
				if v, ok := store.FieldOf(&r, name); ok {
					if counts[name] == nil {
						counts[name] = map[string]int64{}
					}
					counts[name][v]++
				}
			}
			service, _ := store.FieldOf(&r, "service")
			even, _ := store.FieldOf(&r, "even")
			groups[kemi.LabelsOf("service", service, "even", even).String()]++
		}
		fields, err := s.Fields(context.Background(), reader("default"), q, 3)
		if err != nil {
			t.Fatal(err)
		}
		if len(fields) != len(counts) {
			t.Errorf("fields %v, want %d of them", fields, len(counts))
		}
		for _, f := range fields {
			var total, listed int64
			for _, n := range counts[f.Name] {
				total += n
			}
			for i, v := range f.Values {
				listed += v.Count
				if counts[f.Name][v.Value] != v.Count || i > 0 && f.Values[i-1].Count < v.Count {
					t.Errorf("field %s: value %v, want %d of it", f.Name, v, counts[f.Name][v.Value])
				}
			}
			if len(f.Values) != min(3, len(counts[f.Name])) || listed+f.More != total {
				t.Errorf("field %s: %d values, %d listed and %d more, want %d", f.Name, len(f.Values), listed, f.More, total)
			}
		}
		got, err := s.Count(context.Background(), reader("default"), q, []string{"service", "even"})
		if err != nil || len(got) != len(groups) {
			t.Fatalf("count: %v %v, want %v", got, err, groups)
		}
		for _, g := range got {
			if groups[g.Labels.String()] != g.Count {
				t.Errorf("group %v: %d, want %d", g.Labels, g.Count, groups[g.Labels.String()])
			}
		}
		one, err := s.Count(context.Background(), reader("default"), q, nil)
		if want := int64(len(s.expected("default", all))); err != nil || len(one) != 1 || one[0].Count != want {
			t.Errorf("count by nothing: %v %v, want %d", one, err, want)
		}
		if none, err := s.Count(context.Background(), reader("default"), store.LogQuery{Expr: store.LogOr{}, Range: allTime}, nil); err != nil || len(none) != 1 || none[0].Count != 0 {
			t.Errorf("count of nothing: %v %v", none, err)
		}
	}
	ask()
	s.reopen()
	ask()
}

func logsLarge(t *testing.T, s *logStore) {
	var words strings.Builder
	for i := 0; words.Len() < 1<<20; i++ {
		fmt.Fprintf(&words, "w%x ", i*2654435761)
	}
	many := make(map[string]string, 10_000)
	for i := range 10_000 {
		many[fmt.Sprint("attr", i)] = fmt.Sprint("value-", i)
	}
	wide := line("wide", 3, "many attributes")
	wide.Attrs = kemi.LabelsFromMap(many)
	s.index(line("long", 1, words.String()+"end"), line("oneword", 2, strings.Repeat("abcdefgh", 1<<17)+"tail"), wide)
	s.index(line("한글", 4, strings.Repeat("가나다라마바사", 50_000)), line("binary", 5, strings.Repeat("\xff\x00\x80", 300_000)))
	ask := func() {
		t.Helper()
		s.checkAll("default")
		for _, c := range []struct {
			e    store.LogExpr
			want int
		}{
			{store.LogPhrase{Text: "end"}, 1}, {store.LogPhrase{Text: fmt.Sprintf("w%x", 1000*2654435761)}, 1}, {store.LogPhrase{Text: strings.Repeat("abcdefgh", 1<<17) + "tail"}, 1},
			{store.LogPhrase{Text: strings.Repeat("abcdefgh", 1<<17)}, 0}, {store.LogPrefix{Prefix: strings.Repeat("abcdefgh", 100)}, 1}, {store.LogPrefix{Prefix: "abcdefghabc"}, 1},
			{store.LogPhrase{Field: "attr9999", Text: "value-9999"}, 1}, {store.LogPhrase{Field: "attr9999", Text: "value-1"}, 0}, {store.LogExists{Field: "attr5"}, 1},
			{store.LogPhrase{Text: "사가나다"}, 1}, {store.LogPhrase{Text: "나가"}, 0}, {store.LogRegexp{Source: "ghtail$"}, 1},
		} {
			if n := s.check("default", store.LogQuery{Expr: c.e, Range: allTime}); n != c.want {
				t.Errorf("%.80s: %d, want %d", c.e, n, c.want)
			}
		}
	}
	ask()
	s.reopen()
	ask()
}

func logsBadQueries(t *testing.T, s *logStore) {
	s.index(line("b", 1, "x"))
	ctx, id := context.Background(), reader("default")
	if _, err := s.Histogram(ctx, id, store.LogQuery{Range: store.NanoRange{From: 0, To: 1e9}}, 0); !errors.Is(err, kemi.ErrInvalid) {
		t.Errorf("step 0: %v", err)
	}
	if _, err := s.Histogram(ctx, id, store.LogQuery{Range: store.NanoRange{From: 0, To: 1e15}}, 1); !errors.Is(err, kemi.ErrInvalid) {
		t.Errorf("a million buckets: %v", err)
	}
	if _, err := s.Histogram(ctx, kemi.Identity{}, store.LogQuery{Range: store.NanoRange{From: 0, To: 1e9}}, 1000); !errors.Is(err, kemi.ErrDenied) {
		t.Errorf("no project: %v", err)
	}
	if _, err := s.Fields(ctx, kemi.Identity{}, store.LogQuery{}, 1); !errors.Is(err, kemi.ErrDenied) {
		t.Errorf("no project: %v", err)
	}
	if _, err := s.Count(ctx, kemi.Identity{}, store.LogQuery{}, nil); !errors.Is(err, kemi.ErrDenied) {
		t.Errorf("no project: %v", err)
	}
	var many []kemi.LogRecord
	for i := range 10_001 {
		many = append(many, line(fmt.Sprintf("g-%05d", i), 1, "x"))
	}
	s.index(many...)
	if _, err := s.Count(ctx, id, store.LogQuery{Range: allTime}, []string{"id"}); !errors.Is(err, kemi.ErrLimited) {
		t.Errorf("10 002 groups: %v", err)
	}
	s.close()
	s.LogStore = s.open(t, s.dir)
}

func logsCancel(t *testing.T, s *logStore) {
	for i := range 3000 {
		s.index(line(fmt.Sprintf("c-%04d", i), kemi.Nanos(i), strings.Repeat("text ", 50)))
	}
	s.reopen()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	seen := 0
	var last error
	for _, err := range s.Search(ctx, reader("default"), store.LogQuery{Range: allTime}) {
		if last = err; err != nil {
			break
		}
		if seen++; seen == 5 {
			cancel()
		}
	}
	if seen == 3000 || !errors.Is(last, context.Canceled) {
		t.Errorf("%d records after cancel, then %v", seen, last)
	}
	if _, err := s.Count(ctx, reader("default"), store.LogQuery{Range: allTime, Expr: store.LogPhrase{Text: "text"}}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("count after cancel: %v", err)
	}
}

func logsConcurrent(t *testing.T, s *logStore) {
	const partitions, batches, size = 3, 40, 50
	var writers, readers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			last := 0
			for {
				select {
				case <-stop:
					return
				default:
				}
				seen := map[string]bool{}
				for r, err := range s.Search(context.Background(), reader("default"), store.LogQuery{Expr: store.LogPhrase{Text: "word"}, Range: allTime, Ascending: true}) {
					if err != nil {
						t.Error(err)
						return
					}
					if seen[r.ID] {
						t.Errorf("%s twice in one answer", r.ID)
						return
					}
					seen[r.ID] = true
				}
				if len(seen) < last {
					t.Errorf("%d records, and there were %d before", len(seen), last)
					return
				}
				last = len(seen)
				n, err := s.Count(context.Background(), reader("default"), store.LogQuery{Range: allTime}, nil)
				if err != nil || n[0].Count < int64(last) {
					t.Errorf("count %v %v, and there were %d before", n, err, last)
					return
				}
			}
		})
	}
	for p := range int32(partitions) {
		writers.Go(func() {
			for b := range batches {
				rs := make([]kemi.LogRecord, size)
				for i := range rs {
					rs[i] = line(fmt.Sprintf("p%d-b%d-%d", p, b, i), kemi.Nanos(b*size+i), "word "+strings.Repeat("filler ", 20))
				}
				if err := s.Index(context.Background(), rs, store.Position{Partition: p, Next: int64(b + 1)}); err != nil {
					t.Error(err)
					return
				}
				// What Index has taken is found at once.
				got, err := collectLogs(s.Search(context.Background(), reader("default"), store.LogQuery{Expr: store.LogPhrase{Field: "id", Text: rs[0].ID}, Range: allTime}))
				if err != nil || len(got) != 1 {
					t.Errorf("%s: %d records, %v", rs[0].ID, len(got), err)
					return
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	n, err := s.Count(context.Background(), reader("default"), store.LogQuery{Range: allTime}, nil)
	if err != nil || n[0].Count != partitions*batches*size {
		t.Errorf("%v %v, want %d", n, err, partitions*batches*size)
	}
}
