package tsd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode"

	"kemi"
	"kemi/pipeline/store"
	"kemi/sauron/tsdhttp"
	"kemi/sauron/tsduid"
)

// maxAssign is how many names one request may have numbered.
const maxAssign = 10_000

// allTime is any time that a sample can have.
var allTime = kemi.Range{From: 0, To: 9_999_999_999_999}

// checkName is what is wrong with a name, in OpenTSDB's words, or "". Letters are those of all scripts.
func checkName(what, name string) string {
	if name == "" {
		return "Invalid " + what + ": empty string"
	}
	for _, c := range name {
		if !(c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' || c == '/' || unicode.IsLetter(c)) {
			return fmt.Sprintf("Invalid %s (%q): illegal character: %c", what, name, c)
		}
	}
	return ""
}

// exists tells whether a series has the name.
func (a *API) exists(ctx context.Context, id kemi.Identity, k tsduid.Kind, name string) (bool, error) {
	has := func(label string, sel store.Selector) (bool, error) {
		v, err := a.o.Store.LabelValues(ctx, id, label, sel, allTime, 1)
		return len(v) > 0, err
	}
	switch k {
	case tsduid.Metric:
		return has(kemi.MetricName, store.Selector{{Op: store.Equal, Name: kemi.MetricName, Value: name}})
	case tsduid.TagKey:
		if name == kemi.MetricName {
			return false, nil
		}
		return has(name, nil)
	}
	labels, err := a.o.Store.LabelNames(ctx, id, nil, allTime, 0)
	if err != nil {
		return false, err
	}
	for _, l := range labels {
		if l == kemi.MetricName {
			continue
		}
		if ok, err := has(l, store.Selector{{Op: store.Equal, Name: l, Value: name}}); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// uidOf is the number of a name that has one, or is in use and gets one now; 0 if there is no such name.
func (a *API) uidOf(ctx context.Context, id kemi.Identity, k tsduid.Kind, name string) (tsduid.UID, error) {
	known, err := a.o.IDs.Known(ctx, id.Project, k, name)
	if err != nil || known[name] != 0 {
		return known[name], err
	}
	if ok, err := a.exists(ctx, id, k, name); !ok || err != nil {
		return 0, err
	}
	ids, err := a.o.IDs.Number(ctx, id.Project, k, []string{name})
	if err != nil {
		return 0, err
	}
	return ids[0], nil
}

// assign gives numbers to new names.
func (a *API) assign(x *tsdhttp.Exchange) error {
	in := map[string][]string{}
	if x.R.Method == http.MethodPost {
		if err := x.Object(&in); err != nil {
			return err
		}
	} else {
		for _, kind := range []string{"metric", "tagk", "tagv"} {
			if s := x.Get(kind); s != "" {
				in[kind] = strings.Split(s, ",")
			}
		}
	}
	n := 0
	for _, names := range in {
		n += len(names)
	}
	switch {
	case len(in) == 0:
		return tsdhttp.Bad("Missing values to assign UIDs", "name metric, tagk or tagv")
	case n > maxAssign:
		return kemi.Errorf(kemi.ErrTooLarge, "%d names are more than the %d that a request may have numbered: send several", n, maxAssign)
	}
	answer := map[string]map[string]string{}
	status := http.StatusOK
	for kind, names := range in {
		done, failed := map[string]string{}, map[string]string{}
		k, ok := tsduid.KindOf(kind)
		var fresh []string
		for _, name := range names {
			if !ok {
				failed[name] = "Unknown type name"
				continue
			}
			if wrong := checkName(kind, name); wrong != "" {
				failed[name] = wrong
				continue
			}
			uid, err := a.uidOf(x.R.Context(), x.ID, k, name)
			if err != nil {
				return err
			}
			if uid != 0 {
				failed[name] = "Name already exists with UID: " + uid.String()
				continue
			}
			fresh = append(fresh, name)
		}
		if len(fresh) > 0 {
			ids, err := a.o.IDs.Number(x.R.Context(), x.ID.Project, k, fresh)
			if err != nil {
				return err
			}
			for i, name := range fresh {
				done[name] = ids[i].String()
			}
		}
		answer[kind] = done
		if len(failed) > 0 {
			answer[kind+"_errors"], status = failed, http.StatusBadRequest
		}
	}
	return x.Answer(status, answer)
}

// rename gives the number of a name to another. Series keep their names, so that only a name that no series has can be renamed.
func (a *API) rename(x *tsdhttp.Exchange) error {
	in := map[string]string{}
	if x.R.Method == http.MethodPost {
		if err := x.Object(&in); err != nil {
			return err
		}
	} else {
		for name := range x.Params {
			in[name] = x.Get(name)
		}
	}
	to := in["name"]
	for _, kind := range []string{"metric", "tagk", "tagv"} {
		from := in[kind]
		if from == "" || to == "" {
			continue
		}
		fail := func(what string) error {
			return x.Answer(http.StatusBadRequest, map[string]string{"result": "false", "error": what})
		}
		k, _ := tsduid.KindOf(kind)
		if wrong := checkName(kind, to); wrong != "" {
			return fail(wrong)
		}
		used, err := a.exists(x.R.Context(), x.ID, k, from)
		if err != nil {
			return err
		}
		if used {
			return fail(fmt.Sprintf("Name(%q) is in use by series: what is stored keeps its name; send new points with the new one", from))
		}
		uid, err := a.uidOf(x.R.Context(), x.ID, k, to)
		if err != nil {
			return err
		}
		if uid != 0 {
			return fail(fmt.Sprintf("When trying rename(%q, %q) on %s: new name already assigned ID=%s", from, to, k, uid))
		}
		switch err := a.o.IDs.Rename(x.R.Context(), x.ID.Project, k, from, to); {
		case errors.Is(err, kemi.ErrNotFound):
			return fail(fmt.Sprintf("Name(%q) does not exist", from))
		case err != nil:
			return err
		}
		return x.JSON(map[string]string{"result": "true"})
	}
	return tsdhttp.Bad("Missing necessary values to rename UID", "metric, tagk or tagv is the old name, and name the new one")
}

// UIDWidth is how many bytes a UID has.
const UIDWidth = tsduid.Width
