package tsd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"kemi"
	"kemi/sauron/query"
	"kemi/sauron/tsdhttp"
	"kemi/sauron/tsdnote"
	"kemi/sauron/tsduid"
)

// maxBulk is how many annotations one request may change.
const maxBulk = 10_000

// readNote reads a note of a request's body, or else of its parameters.
func (a *API) readNote(x *tsdhttp.Exchange) (tsdnote.Change, error) {
	body, err := x.Body()
	if err != nil {
		return tsdnote.Change{}, err
	}
	var c tsdnote.Change
	if len(body) > 0 {
		if err := tsdhttp.Decode(body, &c); err != nil {
			return c, err
		}
	} else if c, err = a.noteOfURL(x); err != nil {
		return c, err
	}
	if c.TSUID != "" {
		id, err := tsduid.Canonical(c.TSUID)
		if err != nil {
			return c, tsdhttp.Bad(err.Error(), "tsuid: must be pairs of hexadecimal digits")
		}
		c.TSUID = id
	}
	return c, nil
}

func (a *API) noteOfURL(x *tsdhttp.Exchange) (tsdnote.Change, error) {
	given := map[string]any{"tsuid": x.Get("tsuid")}
	for param, field := range map[string]string{"start_time": "startTime", "end_time": "endTime"} {
		if s := x.Get(param); s != "" {
			at, err := query.ParseTime(s, nil, a.o.Now())
			if err != nil {
				return tsdnote.Change{}, err
			}
			given[field] = int64(at) / 1000
		}
	}
	if at, _ := given["startTime"].(int64); at < 1 {
		return tsdnote.Change{}, tsdhttp.Bad("Missing start time", "start_time is when the annotation begins, in seconds")
	}
	for _, name := range []string{"description", "notes"} {
		if s, ok := x.Last(name); ok {
			given[name] = s
		}
	}
	b, err := json.Marshal(given)
	if err != nil {
		return tsdnote.Change{}, err
	}
	var c tsdnote.Change
	return c, json.Unmarshal(b, &c)
}

func needStart(c *tsdnote.Change) error {
	if c.StartTime < 1 || c.At() > allTime.To {
		return tsdhttp.Bad("The start timestamp has not been set", "startTime: must be a time in seconds or milliseconds after 1970")
	}
	return nil
}

func (a *API) getNote(x *tsdhttp.Exchange) error {
	c, err := a.readNote(x)
	if err == nil {
		err = needStart(&c)
	}
	if err != nil {
		return err
	}
	note, err := a.o.Notes.Get(x.R.Context(), x.ID.Project, c.TSUID, c.At())
	if errors.Is(err, kemi.ErrNotFound) {
		return tsdhttp.NotFound("Unable to locate annotation in storage", "")
	}
	if err != nil {
		return err
	}
	return x.JSON(note)
}

func (a *API) changeNote(x *tsdhttp.Exchange) error {
	c, err := a.readNote(x)
	if err != nil {
		return err
	}
	if x.Method == http.MethodDelete {
		if needStart(&c) != nil {
			return tsdhttp.Bad("Unable to delete Annotation information", "The start timestamp has not been set")
		}
		if _, err := a.o.Notes.Delete(x.R.Context(), x.ID.Project, c.TSUID, c.At()); err != nil {
			return err
		}
		x.Head(http.StatusNoContent)
		return nil
	}
	if err := needStart(&c); err != nil {
		return err
	}
	if c.Empty() {
		x.Head(http.StatusNotModified)
		return nil
	}
	notes, err := a.o.Notes.Put(x.R.Context(), x.ID.Project, []tsdnote.Change{c}, x.Method == http.MethodPut)
	if err != nil {
		return err
	}
	return x.JSON(notes[0])
}

// listNotes is the annotations of no series in a range.
func (a *API) listNotes(x *tsdhttp.Exchange) error {
	c, err := a.readNote(x)
	if err == nil {
		err = needStart(&c)
	}
	if err != nil {
		return err
	}
	end := tsdnote.Note{StartTime: c.EndTime}
	to := end.At()
	if c.EndTime == 0 {
		to = kemi.MillisOf(a.o.Now())
	}
	if to < c.At() {
		return tsdhttp.Bad("The end timestamp cannot be less than the start timestamp", "")
	}
	notes, err := a.o.Notes.Range(x.R.Context(), x.ID.Project, c.At(), to)
	if err != nil {
		return err
	}
	global := []tsdnote.Note{}
	for _, n := range notes {
		if ends := (&tsdnote.Note{StartTime: n.EndTime}); n.TSUID == "" && ends.At() <= to {
			global = append(global, n)
		}
	}
	return x.JSON(global)
}

func (a *API) bulk(x *tsdhttp.Exchange) error {
	if x.Method == http.MethodDelete {
		return a.bulkDelete(x)
	}
	body, err := x.Body()
	if err != nil {
		return err
	}
	var raw []json.RawMessage
	if err := tsdhttp.Decode(body, &raw); err != nil {
		return err
	}
	if len(raw) > maxBulk {
		return kemi.Errorf(kemi.ErrTooLarge, "%d annotations are more than the %d that a request may change: send several", len(raw), maxBulk)
	}
	changes := make([]tsdnote.Change, 0, len(raw))
	var first error
	for i, r := range raw {
		var c tsdnote.Change
		err := json.NewDecoder(bytes.NewReader(r)).Decode(&c)
		if err != nil {
			err = tsdhttp.NotJSON(err)
		} else if err = needStart(&c); err == nil && c.TSUID != "" {
			if c.TSUID, err = tsduid.Canonical(c.TSUID); err != nil {
				err = tsdhttp.Bad(err.Error(), "tsuid: must be pairs of hexadecimal digits")
			}
		}
		switch {
		case err == nil && !c.Empty():
			changes = append(changes, c)
		case err != nil && first == nil:
			told := new(tsdhttp.Error)
			if errors.As(err, &told) {
				err = tsdhttp.Bad(told.Message, fmt.Sprintf("annotation %d: %s; the good ones are stored", i, told.Details))
			}
			first = err
		}
	}
	notes, err := a.o.Notes.Put(x.R.Context(), x.ID.Project, changes, x.Method == http.MethodPut)
	if err != nil {
		return err
	}
	if first != nil {
		return first
	}
	if notes == nil {
		notes = []tsdnote.Note{}
	}
	return x.JSON(notes)
}

// bulkDelete deletes the annotations that begin in a range: of some series, of none (global), or both.
func (a *API) bulkDelete(x *tsdhttp.Exchange) error {
	var in struct {
		StartTime json.RawMessage `json:"startTime"`
		EndTime   json.RawMessage `json:"endTime"`
		TSUIDs    []string        `json:"tsuids"`
		Global    bool            `json:"global"`
	}
	body, err := x.Body()
	if err != nil {
		return err
	}
	start, end := "", ""
	if len(body) > 0 {
		if err := tsdhttp.Decode(body, &in); err != nil {
			return err
		}
		start, end = strings.Trim(string(in.StartTime), `"`), strings.Trim(string(in.EndTime), `"`)
	} else {
		if start, err = x.Required("start_time"); err != nil {
			return err
		}
		end, in.Global = x.Get("end_time"), x.Params.Has("global")
		if s, ok := x.Last("tsuids"); ok {
			in.TSUIDs = strings.Split(s, ",")
		}
	}
	switch {
	case start == "" || start == "null":
		return tsdhttp.Bad("Missing the start time value", "")
	case !in.Global && len(in.TSUIDs) == 0:
		return tsdhttp.Bad("Missing the TSUIDs or global annotations flag", "")
	}
	from, err := query.ParseTime(start, nil, a.o.Now())
	if err != nil {
		return err
	}
	to := kemi.MillisOf(a.o.Now())
	if end != "" && end != "null" {
		if to, err = query.ParseTime(end, nil, a.o.Now()); err != nil {
			return err
		}
	}
	if to < from {
		return tsdhttp.Bad("The end timestamp cannot be less than the start timestamp", "")
	}
	wanted := map[string]bool{"": in.Global}
	for _, s := range in.TSUIDs {
		id, err := tsduid.Canonical(strings.TrimSpace(s))
		if err != nil {
			return tsdhttp.Bad(err.Error(), "tsuids: must be pairs of hexadecimal digits")
		}
		wanted[id] = true
	}
	notes, err := a.o.Notes.Range(x.R.Context(), x.ID.Project, from, to)
	if err != nil {
		return err
	}
	deleted := 0
	for _, n := range notes {
		if !wanted[n.TSUID] {
			continue
		}
		was, err := a.o.Notes.Delete(x.R.Context(), x.ID.Project, n.TSUID, n.At())
		if err != nil {
			return err
		}
		if was {
			deleted++
		}
	}
	return x.JSON(map[string]any{"startTime": from, "endTime": to, "tsuids": in.TSUIDs, "global": in.Global, "totalDeleted": deleted})
}
