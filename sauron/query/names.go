package query

import (
	"context"
	"encoding/hex"
	"strings"

	"github.com/zeebo/xxh3"

	"kemi"
	"kemi/pipeline/store"
	"kemi/sauron/tsdhttp"
	"kemi/sauron/tsduid"
)

// allTime is any time that a sample can have.
var allTime = kemi.Range{From: 0, To: maxTime}

// checkNames is an error for a metric, a tag key or a literal tag value that the project has never had. Names that a selected series
// has are known to exist, so that this costs nothing in general.
func (e *Engine) checkNames(ctx context.Context, id kemi.Identity, p *plan, x *execution) error {
	exists := func(label string, sel store.Selector) (bool, error) {
		values, err := e.o.Store.LabelValues(ctx, id, label, sel, allTime, 1)
		return len(values) > 0, err
	}
	if !x.matched {
		ok, err := exists(kemi.MetricName, store.Selector{{Op: store.Equal, Name: kemi.MetricName, Value: p.Metric}})
		if err == nil && !ok {
			err = e.unknown(ctx, id, tsduid.Metric, p.Metric)
		}
		if err != nil {
			return err
		}
	}
	for _, f := range p.filters {
		for _, v := range f.literals {
			if x.seen[v] {
				continue
			}
			if err := e.checkValue(ctx, id, f.name, v, exists); err != nil {
				return err
			}
		}
		if x.matched && f.Type != "not_key" {
			continue
		}
		ok, err := exists(f.name, nil)
		if err == nil && !ok {
			err = e.unknown(ctx, id, tsduid.TagKey, f.Tagk)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkValue looks for a tag value under its own key first and then under any: OpenTSDB keeps the values of all keys in one table.
func (e *Engine) checkValue(ctx context.Context, id kemi.Identity, key, value string, exists func(string, store.Selector) (bool, error)) error {
	names, err := e.o.Store.LabelNames(ctx, id, nil, allTime, 0)
	if err != nil {
		return err
	}
	for _, n := range append([]string{key}, names...) {
		if n == kemi.MetricName {
			continue
		}
		ok, err := exists(n, store.Selector{{Op: store.Equal, Name: n, Value: value}})
		if err != nil || ok {
			return err
		}
	}
	return e.unknown(ctx, id, tsduid.TagValue, value)
}

// unknown is the error for a name that no series has, or nil if it has a number nevertheless.
func (e *Engine) unknown(ctx context.Context, id kemi.Identity, kind tsduid.Kind, name string) error {
	if e.o.IDs != nil {
		known, err := e.o.IDs.Known(ctx, id.Project, kind, name)
		if err != nil || known[name] != 0 {
			return err
		}
	}
	return tsdhttp.Badf("No such name for '%s': '%s'", kind, clip(name))
}

// seriesID is a name for a series that does not change: what OpenTSDB's TSUID is for its clients.
func seriesID(ls kemi.Labels) string {
	var b []byte
	for _, l := range ls {
		b = append(append(append(append(b, l.Name...), 0xff), l.Value...), 0xff)
	}
	h := xxh3.Hash128(b).Bytes()
	return strings.ToUpper(hex.EncodeToString(h[:]))
}
