package storetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
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
		{"SameID", logsSameID},
		{"Redelivery", logsRedelivery},
		{"Reopen", logsReopen},
		{"Histogram", logsHistogram},
		{"FieldsAndCount", logsFieldsAndCount},
		{"Large", logsLarge},
		{"Series", logsSeries},
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
		if _, known := s.model[r.Project+"\x00"+r.ID]; !known {
			s.model[r.Project+"\x00"+r.ID] = r
		}
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

// logsSameID sends records with IDs that are there already: the first that came with an ID is the one that stays.
func logsSameID(t *testing.T, s *logStore) {
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
		t.Errorf("histogram counts records twice: %v %v", n, err)
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
