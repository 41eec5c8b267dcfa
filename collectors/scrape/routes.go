package scrape

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	upstream "github.com/prometheus/prometheus/scrape"

	"kemi"
)

// Routes are the paths of Prometheus' API that tell of targets, those of the identity's project.
func (s *Scraper) Routes() []kemi.Route {
	var routes []kemi.Route
	for path, answer := range map[string]func(r *http.Request, t *upstream.Manager) (any, error){
		"/api/v1/targets": targets, "/api/v1/targets/metadata": targetMetadata, "/api/v1/scrape_pools": scrapePools,
	} {
		routes = append(routes, kemi.Route{
			Pattern: "GET " + path, Needs: kemi.MetricsRead, Dialect: kemi.DialectPrometheus,
			Handle: func(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
				data, err := answer(r, s.targetsOf(id))
				if err != nil {
					kemi.WriteError(w, kemi.DialectPrometheus, err)
					return
				}
				kemi.WriteJSON(w, http.StatusOK, success{"success", data})
			},
		})
	}
	return routes
}

type success struct {
	Status string `json:"status"`
	Data   any    `json:"data"`
}

// targetsOf is the manager of the identity's project, or nil.
func (s *Scraper) targetsOf(id kemi.Identity) *upstream.Manager {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if r := s.runners[id.Project]; r != nil {
		return r.targets
	}
	return nil
}

// activeTarget and droppedTarget are as Prometheus tells them.
type activeTarget struct {
	DiscoveredLabels   labels.Labels         `json:"discoveredLabels"`
	Labels             labels.Labels         `json:"labels"`
	ScrapePool         string                `json:"scrapePool"`
	ScrapeURL          string                `json:"scrapeUrl"`
	GlobalURL          string                `json:"globalUrl"`
	LastError          string                `json:"lastError"`
	LastScrape         time.Time             `json:"lastScrape"`
	LastScrapeDuration float64               `json:"lastScrapeDuration"`
	Health             upstream.TargetHealth `json:"health"`
	ScrapeInterval     string                `json:"scrapeInterval"`
	ScrapeTimeout      string                `json:"scrapeTimeout"`
}

type droppedTarget struct {
	DiscoveredLabels labels.Labels `json:"discoveredLabels"`
	ScrapePool       string        `json:"scrapePool"`
}

type targetList struct {
	ActiveTargets       []activeTarget  `json:"activeTargets"`
	DroppedTargets      []droppedTarget `json:"droppedTargets"`
	DroppedTargetCounts map[string]int  `json:"droppedTargetCounts"`
}

func targets(r *http.Request, m *upstream.Manager) (any, error) {
	q := r.URL.Query()
	pool, state := q.Get("scrapePool"), strings.ToLower(q.Get("state"))
	list := targetList{ActiveTargets: []activeTarget{}, DroppedTargets: []droppedTarget{}}
	if state == "" || state == "any" || state == "dropped" {
		list.DroppedTargetCounts = map[string]int{}
	}
	if m == nil {
		return list, nil
	}
	b := labels.NewBuilder(labels.EmptyLabels())
	if state == "" || state == "any" || state == "active" {
		each(m.TargetsActive(), pool, func(pool string, t *upstream.Target) {
			u := t.URL().String()
			a := activeTarget{
				DiscoveredLabels: t.DiscoveredLabels(b), Labels: t.Labels(b), ScrapePool: pool, ScrapeURL: u, GlobalURL: u,
				LastScrape: t.LastScrape(), LastScrapeDuration: t.LastScrapeDuration().Seconds(), Health: t.Health(),
				ScrapeInterval: t.GetValue(model.ScrapeIntervalLabel), ScrapeTimeout: t.GetValue(model.ScrapeTimeoutLabel),
			}
			if err := t.LastError(); err != nil {
				a.LastError = err.Error()
			}
			list.ActiveTargets = append(list.ActiveTargets, a)
		})
	}
	if state == "" || state == "any" || state == "dropped" {
		list.DroppedTargetCounts = m.TargetsDroppedCounts()
		each(m.TargetsDropped(), pool, func(pool string, t *upstream.Target) {
			list.DroppedTargets = append(list.DroppedTargets, droppedTarget{t.DiscoveredLabels(b), pool})
		})
	}
	return list, nil
}

// each calls f for the targets of the pool, or of all pools in order of name.
func each(all map[string][]*upstream.Target, pool string, f func(pool string, t *upstream.Target)) {
	names := make([]string, 0, len(all))
	for name := range all {
		if pool == "" || name == pool {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		for _, t := range all[name] {
			f(name, t)
		}
	}
}

type familyMetadata struct {
	Target       labels.Labels    `json:"target"`
	MetricFamily string           `json:"metric,omitempty"`
	Type         model.MetricType `json:"type"`
	Help         string           `json:"help"`
	Unit         string           `json:"unit"`
}

func targetMetadata(r *http.Request, m *upstream.Manager) (any, error) {
	limit := -1
	if v := r.FormValue("limit"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "limit must be a number")
		}
		limit = n
	}
	var match []*labels.Matcher
	if v := r.FormValue("match_target"); v != "" {
		var err error
		if match, err = parser.NewParser(parser.Options{}).ParseMetricSelector(v); err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "invalid parameter %q: %w", "match_target", err)
		}
	}
	list := []familyMetadata{}
	if m == nil {
		return list, nil
	}
	metric := r.FormValue("metric")
	b := labels.NewBuilder(labels.EmptyLabels())
	each(m.TargetsActive(), "", func(_ string, t *upstream.Target) {
		if limit >= 0 && len(list) >= limit {
			return
		}
		ls := t.Labels(b)
		if slices.ContainsFunc(match, func(x *labels.Matcher) bool { return !x.Matches(ls.Get(x.Name)) }) {
			return
		}
		if metric != "" {
			if md, ok := t.GetMetadata(metric); ok {
				list = append(list, familyMetadata{Target: ls, Type: md.Type, Help: md.Help, Unit: md.Unit})
			}
			return
		}
		for _, md := range t.ListMetadata() {
			list = append(list, familyMetadata{ls, md.MetricFamily, md.Type, md.Help, md.Unit})
		}
	})
	return list, nil
}

func scrapePools(_ *http.Request, m *upstream.Manager) (any, error) {
	names := []string{}
	if m != nil {
		names = append(names, m.ScrapePools()...)
	}
	slices.Sort(names)
	return map[string][]string{"scrapePools": names}, nil
}
