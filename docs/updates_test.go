package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// TestEveryModuleIsLookedAfter: whatever fixes versions of what others make is in the list of what is looked at for updates.
func TestEveryModuleIsLookedAfter(t *testing.T) {
	text, err := os.ReadFile("../.github/dependabot.yml")
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Version int
		Updates []struct {
			Ecosystem   string `json:"package-ecosystem"`
			Directories []string
			Schedule    struct{ Interval string }
		}
	}
	if err := yaml.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	have := map[string][]string{}
	for _, u := range list.Updates {
		if u.Schedule.Interval == "" {
			t.Errorf("%s is never looked at", u.Ecosystem)
		}
		have[u.Ecosystem] = append(have[u.Ecosystem], u.Directories...)
	}
	want := map[string][]string{}
	err = filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git"):
			return fs.SkipDir
		}
		if ecosystem := map[string]string{"go.mod": "gomod", "package.json": "npm"}[d.Name()]; ecosystem != "" {
			folder := "/" + strings.TrimPrefix(strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), ".."), "/")
			want[ecosystem] = append(want[ecosystem], folder)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, lists := range []map[string][]string{have, want} {
		for _, l := range lists {
			slices.Sort(l)
		}
	}
	if diff := cmp.Diff(want, have); diff != "" || list.Version != 2 {
		t.Errorf("version %d of .github/dependabot.yml (-modules +list):\n%s", list.Version, diff)
	}
}
