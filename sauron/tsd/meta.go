package tsd

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strings"

	"kemi"
	"kemi/pipeline/store"
	"kemi/sauron/tsdhttp"
	"kemi/sauron/tsduid"
)

// meta is what people wrote of a name or a series.
type meta struct {
	UID         string            `json:"uid,omitempty"`
	Type        string            `json:"type,omitempty"`
	TSUID       string            `json:"tsuid,omitempty"`
	DisplayName string            `json:"displayName"`
	Description string            `json:"description"`
	Notes       string            `json:"notes"`
	Custom      map[string]string `json:"custom"`
	Units       string            `json:"units,omitempty"`
	DataType    string            `json:"dataType,omitempty"`
	Retention   int               `json:"retention,omitempty"`
	Max         *float64          `json:"max,omitempty"`
	Min         *float64          `json:"min,omitempty"`
}

// The kinds under which they are kept.
const (
	uidMetaKind = "opentsdb.uidmeta"
	tsMetaKind  = "opentsdb.tsmeta"
	maxMeta     = 64 << 10 // bytes
)

// kept is what is stored of name, empty if nothing is.
func (a *API) kept(ctx context.Context, project, kind, name string) (m meta, revision int64, err error) {
	r, err := a.o.Control.Get(ctx, project, kind, name)
	if errors.Is(err, kemi.ErrNotFound) {
		return m, 0, nil
	}
	if err == nil {
		err = json.Unmarshal(r.Spec, &m)
	}
	return m, r.Revision, err
}

// change stores what a request says; with POST what it does not say stays.
func (a *API) change(x *tsdhttp.Exchange, kind, name string) error {
	ctx := x.R.Context()
	m, revision, err := a.kept(ctx, x.ID.Project, kind, name)
	if err != nil {
		return err
	}
	if x.Method == http.MethodDelete {
		if revision == 0 {
			return nil
		}
		err := a.o.Control.Delete(ctx, x.ID.Project, kind, name, store.AnyRevision)
		if errors.Is(err, kemi.ErrNotFound) {
			return nil
		}
		return err
	}
	if x.Method == http.MethodPut {
		m = meta{}
	}
	body, err := x.Body()
	if err != nil {
		return err
	}
	if len(body) > 0 {
		err = tsdhttp.Decode(body, &m)
	} else {
		for param, field := range map[string]*string{"display_name": &m.DisplayName, "description": &m.Description, "notes": &m.Notes, "units": &m.Units, "data_type": &m.DataType} {
			if s, ok := x.Last(param); ok {
				*field = s
			}
		}
	}
	if err != nil {
		return err
	}
	m.UID, m.Type, m.TSUID = "", "", ""
	spec, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(spec) > maxMeta {
		return kemi.Errorf(kemi.ErrTooLarge, "%d bytes are more than the %d that may be kept of a name or series: shorten the notes", len(spec), maxMeta)
	}
	_, err = a.o.Control.Put(ctx, store.Resource{Project: x.ID.Project, Kind: kind, Name: name, Spec: spec, Revision: revision})
	return err
}

// named reads which name a request is about.
func (a *API) named(x *tsdhttp.Exchange) (k tsduid.Kind, id tsduid.UID, name string, err error) {
	var in meta
	body, err := x.Body()
	if err != nil {
		return k, id, "", err
	}
	if len(body) > 0 {
		if err := tsdhttp.Decode(body, &in); err != nil {
			return k, id, "", err
		}
		if in.UID == "" {
			return k, id, "", tsdhttp.Bad("Missing UID", "")
		}
	} else {
		if in.UID, err = x.Required("uid"); err != nil {
			return k, id, "", err
		}
		if in.Type, err = x.Required("type"); err != nil {
			return k, id, "", err
		}
	}
	k, ok := tsduid.KindOf(strings.TrimSuffix(strings.ToLower(in.Type), "s"))
	if !ok {
		return k, id, "", tsdhttp.Bad("Invalid type requested: "+tsdhttp.Clip(in.Type), "must be metric, tagk or tagv")
	}
	if id, err = tsduid.Parse(k, in.UID); err != nil {
		return k, id, "", tsdhttp.Bad(err.Error(), "uid: must be 6 hexadecimal digits")
	}
	name, ok, err = a.o.IDs.Name(x.R.Context(), x.ID.Project, k, id)
	if err == nil && !ok {
		err = tsdhttp.NotFound("Could not find the requested UID", "No such unique ID for '"+k.String()+"': "+id.String())
	}
	return k, id, name, err
}

// shownUID is what is told of a name.
func shownUID(k tsduid.Kind, id tsduid.UID, name string, m meta) map[string]any {
	return map[string]any{
		"uid": id.String(), "type": [...]string{"METRIC", "TAGK", "TAGV"}[k], "name": name, "created": 0,
		"displayName": m.DisplayName, "description": m.Description, "notes": m.Notes, "custom": m.Custom,
	}
}

func (a *API) getUIDMeta(x *tsdhttp.Exchange) error {
	k, id, name, err := a.named(x)
	if err != nil {
		return err
	}
	m, _, err := a.kept(x.R.Context(), x.ID.Project, uidMetaKind, k.String()+"/"+id.String())
	if err != nil {
		return err
	}
	return x.JSON(shownUID(k, id, name, m))
}

func (a *API) changeUIDMeta(x *tsdhttp.Exchange) error {
	k, id, _, err := a.named(x)
	if err != nil {
		return err
	}
	if err := a.change(x, uidMetaKind, k.String()+"/"+id.String()); err != nil {
		return err
	}
	if x.Method == http.MethodDelete {
		x.Head(http.StatusNoContent)
		return nil
	}
	return a.getUIDMeta(x)
}

// shownSeries is what is told of a series.
func (a *API) shownSeries(ctx context.Context, id kemi.Identity, ls kemi.Labels) (map[string]any, error) {
	tsuids, err := a.o.IDs.TSUIDs(ctx, id.Project, []kemi.Labels{ls})
	if err != nil {
		return nil, err
	}
	tsuid := tsuids[0]
	m, _, err := a.kept(ctx, id.Project, tsMetaKind, tsuid)
	if err != nil {
		return nil, err
	}
	name := func(k tsduid.Kind, s string) (map[string]any, error) {
		ids, err := a.o.IDs.Number(ctx, id.Project, k, []string{s})
		if err != nil {
			return nil, err
		}
		m, _, err := a.kept(ctx, id.Project, uidMetaKind, k.String()+"/"+ids[0].String())
		return shownUID(k, ids[0], s, m), err
	}
	metric, err := name(tsduid.Metric, ls.Get(kemi.MetricName))
	if err != nil {
		return nil, err
	}
	tags := []map[string]any{}
	for _, l := range ls {
		if l.Name == kemi.MetricName {
			continue
		}
		key, err := name(tsduid.TagKey, l.Name)
		if err != nil {
			return nil, err
		}
		value, err := name(tsduid.TagValue, l.Value)
		if err != nil {
			return nil, err
		}
		tags = append(tags, key, value)
	}
	last, err := a.o.Engine.LastOf(ctx, id, ls)
	if err != nil {
		return nil, err
	}
	bound := func(v *float64) any {
		if v == nil || math.IsNaN(*v) {
			return "NaN"
		}
		return *v
	}
	told := map[string]any{
		"tsuid": tsuid, "metric": metric, "tags": tags, "created": 0, "lastReceived": int64(last) / 1000, "totalDatapoints": 0,
		"displayName": m.DisplayName, "description": m.Description, "notes": m.Notes, "units": m.Units,
		"dataType": m.DataType, "retention": m.Retention, "max": bound(m.Max), "min": bound(m.Min),
	}
	if m.Custom != nil {
		told["custom"] = m.Custom
	}
	return told, nil
}

// seriesNamed are the series that a request names by TSUID, or as m=<metric>{<tags>}.
func (a *API) seriesNamed(x *tsdhttp.Exchange) ([]kemi.Labels, error) {
	tsuid := x.Get("tsuid")
	body, err := x.Body()
	if err != nil {
		return nil, err
	}
	if len(body) > 0 {
		var in meta
		if err := tsdhttp.Decode(body, &in); err != nil {
			return nil, err
		}
		tsuid = in.TSUID
	}
	if tsuid == "" {
		m, err := x.Required("m")
		if err != nil {
			return nil, err
		}
		return a.o.Engine.SeriesOf(x.R.Context(), x.ID, m)
	}
	id, err := tsduid.Canonical(tsuid)
	if err != nil {
		return nil, tsdhttp.Bad(err.Error(), "tsuid: must be pairs of hexadecimal digits")
	}
	found, err := a.o.IDs.Series(x.R.Context(), x.ID.Project, []string{id})
	if err != nil {
		return nil, err
	}
	if found[0] == nil {
		return nil, tsdhttp.NotFound("Could not find Timeseries meta data", "TSUID "+id)
	}
	return found, nil
}

func (a *API) getTSMeta(x *tsdhttp.Exchange) error {
	series, err := a.seriesNamed(x)
	if err != nil {
		return err
	}
	out := make([]map[string]any, len(series))
	for i, ls := range series {
		if out[i], err = a.shownSeries(x.R.Context(), x.ID, ls); err != nil {
			return err
		}
	}
	if x.Params.Has("tsuid") || x.R.Method != http.MethodGet {
		return x.JSON(out[0])
	}
	return x.JSON(out)
}

func (a *API) changeTSMeta(x *tsdhttp.Exchange) error {
	series, err := a.seriesNamed(x)
	if err != nil {
		return err
	}
	if len(series) != 1 {
		return tsdhttp.Bad("Could not find TSMeta", "m: must be all of the tags of one series")
	}
	ids, err := a.o.IDs.TSUIDs(x.R.Context(), x.ID.Project, series)
	if err != nil {
		return err
	}
	if err := a.change(x, tsMetaKind, ids[0]); err != nil {
		return err
	}
	if x.Method == http.MethodDelete {
		x.Head(http.StatusNoContent)
		return nil
	}
	told, err := a.shownSeries(x.R.Context(), x.ID, series[0])
	if err != nil {
		return err
	}
	return x.JSON(told)
}
