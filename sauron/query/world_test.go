package query

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"kemi"
)

// world is random data of a few metrics and the questions to ask of it.
type world struct {
	series []worldSeries
	prefix string
}

type worldSeries struct {
	labels kemi.Labels
	whole  bool
	at     []kemi.Millis
	v      []float64
}

const worldStart = kemi.Millis(1515900000_000)

func newWorld(rnd *rand.Rand, prefix string) *world {
	w := &world{prefix: prefix}
	for _, metric := range []string{"a", "b"} {
		for host := range 2 + rnd.IntN(4) {
			pairs := []string{kemi.MetricName, prefix + metric, "node", fmt.Sprintf("srv%02d", host)}
			if rnd.IntN(3) > 0 {
				pairs = append(pairs, "area", []string{"Jeju", "Asan"}[rnd.IntN(2)])
			}
			s := worldSeries{labels: kemi.LabelsOf(pairs...), whole: metric == "a"}
			step := []int64{1000, 10_000, 60_000, 7_500}[rnd.IntN(4)]
			at := int64(worldStart) + rnd.Int64N(3600)*1000
			if rnd.IntN(2) == 0 {
				at = at / step * step
			}
			n := 1 + rnd.IntN(60)
			counter := 0.0
			for range n {
				v := float64(rnd.IntN(200) - 50)
				if host%2 == 0 {
					counter += float64(rnd.IntN(50))
					if rnd.IntN(12) == 0 {
						counter = 3
					}
					v = counter
				}
				if !s.whole {
					v += 0.25 + float64(rnd.IntN(3))/4
				}
				s.at, s.v = append(s.at, kemi.Millis(at)), append(s.v, v)
				at += step * int64(1+rnd.IntN(3)*rnd.IntN(2)*rnd.IntN(5))
			}
			w.series = append(w.series, s)
		}
	}
	for _, dc := range []string{"Jeju", "Asan"} { // so that these names exist, whatever was drawn
		w.series = append(w.series, worldSeries{labels: kemi.LabelsOf(kemi.MetricName, prefix+"c", "node", "srv01", "area", dc), at: []kemi.Millis{worldStart}, v: []float64{0.5}})
	}
	return w
}

func (w *world) each(f func(ls kemi.Labels, at kemi.Millis, v float64, whole bool)) {
	for _, s := range w.series {
		for i := range s.at {
			f(s.labels, s.at[i], s.v[i], s.whole)
		}
	}
}

func oneOf[T any](rnd *rand.Rand, of ...T) T { return of[rnd.IntN(len(of))] }

func (w *world) query(rnd *rand.Rand) map[string]any {
	sub := map[string]any{"aggregator": oneOf(rnd, Aggregators()...), "metric": w.prefix + oneOf(rnd, "a", "b")}
	if rnd.IntN(2) == 0 {
		sub["aggregator"] = oneOf(rnd, "sum", "avg", "max", "min", "none", "dev", "zimsum", "count", "p95")
	}
	if rnd.IntN(5) < 3 {
		names := slices.DeleteFunc(Aggregators(), func(n string) bool { return n == "none" })
		sub["downsample"] = oneOf(rnd, "10s", "1m", "5m", "7m", "15m", "1h", "0all", "1mc", "15mc", "1hc", "6hc", "1dc", "1wc", "1nc", "90s", "700ms") +
			"-" + oneOf(rnd, names...) + oneOf(rnd, "", "", "", "-none", "-nan", "-null", "-zero")
	}
	if rnd.IntN(3) == 0 {
		sub["rate"] = true
		if rnd.IntN(2) == 0 {
			o := map[string]any{"counter": true}
			if rnd.IntN(2) == 0 {
				o["counterMax"] = oneOf(rnd, 1000, 65535, 300)
			}
			if rnd.IntN(2) == 0 {
				o["resetValue"] = oneOf(rnd, 1, 5, 100)
			}
			if rnd.IntN(3) == 0 {
				o["dropResets"] = true
			}
			sub["rateOptions"] = o
		}
	}
	var filters []map[string]any
	for _, tagk := range []string{"node", "area"} {
		if rnd.IntN(2) == 0 {
			continue
		}
		f := oneOf(rnd, [][2]string{
			{"wildcard", "*"}, {"literal_or", "srv00"}, {"literal_or", "srv00|srv01"}, {"iliteral_or", "SRV00|Srv01"}, {"not_literal_or", "srv00|Asan"},
			{"not_iliteral_or", "SRV00|jeju"}, {"wildcard", "srv*"}, {"wildcard", "*1"}, {"wildcard", "s*0*"}, {"wildcard", "s*1"}, {"wildcard", "b*s"}, {"iwildcard", "*SRV*"},
			{"regexp", "srv0[12]"}, {"regexp", "^J"}, {"regexp", "n$"}, {"regexp", "1|A"}, {"literal_or", "Jeju"}, {"literal_or", "nosuch"},
		}...)
		filters = append(filters, map[string]any{"type": f[0], "filter": f[1], "tagk": tagk, "groupBy": rnd.IntN(2) == 0})
	}
	switch {
	case filters != nil && rnd.IntN(4) > 0:
		sub["filters"] = filters
		if rnd.IntN(4) == 0 {
			sub["explicitTags"] = true
		}
	case rnd.IntN(3) == 0:
		sub["tags"] = map[string]string{oneOf(rnd, "node", "area"): oneOf(rnd, "*", "srv00|srv01", "srv*", "regexp(.*1)", "Jeju")}
	}
	span := oneOf(rnd, int64(600), 3600, 7200, 90_000, 40*86_400)
	if d, _ := sub["downsample"].(string); strings.HasPrefix(d, "700ms") || strings.HasPrefix(d, "10s") {
		span = min(span, 7200)
	}
	start := int64(worldStart) - rnd.Int64N(2*span)*1000 + rnd.Int64N(5400)*1000
	if rnd.IntN(3) == 0 {
		start += rnd.Int64N(1000)
	}
	q := map[string]any{"start": start, "end": start + span*1000 + oneOf(rnd, int64(0), 0, 1, 500, 999), "queries": []any{sub}}
	if rnd.IntN(2) == 0 {
		q["msResolution"] = true
	}
	if rnd.IntN(3) == 0 {
		q["timezone"] = oneOf(rnd, "Asia/Seoul", "America/New_York", "UTC", "Asia/Kolkata")
	}
	if rnd.IntN(6) == 0 {
		q["useCalendar"] = true
	}
	return q
}
