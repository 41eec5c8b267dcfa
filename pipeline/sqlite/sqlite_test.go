package sqlite

import (
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"kemi/pipeline/store"
	"kemi/pipeline/storetest"
)

func TestControl(t *testing.T) {
	defer goleak.VerifyNone(t)
	t.Run("Conformance", func(t *testing.T) {
		storetest.Control(t, func(t testing.TB) func() store.Control {
			path := filepath.Join(t.TempDir(), "odd?name#%41", "control.db")
			return func() store.Control {
				d, err := Open(path)
				if err != nil {
					t.Fatal(err)
				}
				return d
			}
		})
	})
}
