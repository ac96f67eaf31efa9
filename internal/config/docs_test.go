package config_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

var update = flag.Bool("update", false, "write docs/configuration.md anew")

const (
	referenceFile = "../../docs/configuration.md"
	marker        = "<!-- The table below is made from internal/config/v1alpha1.go: go test ./internal/config -update -->"
)

// TestReferenceIsUpToDate: each key of the file is documented, in the words of the code.
func TestReferenceIsUpToDate(t *testing.T) {
	page, err := os.ReadFile(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	head, _, found := strings.Cut(string(page), marker)
	if !found {
		t.Fatalf("%s lacks the line %s", referenceFile, marker)
	}
	want := head + marker + "\n\n" + reference(t)
	if *update {
		if err := os.WriteFile(referenceFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(page) != want {
		t.Error("docs/configuration.md is stale: go test ./internal/config -update")
	}
}

// words are the types of values as a person would say them.
var words = map[string]string{"string": "text", "Duration": "duration", "int64": "id", "int": "number", "float64": "number", "bool": "true or false"}

// reference walks the types and takes each field's comment from the source.
func reference(t *testing.T) string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "v1alpha1.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	comments := map[string]string{} // "Type.Field"
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if st, ok := spec.Type.(*ast.StructType); ok {
			for _, f := range st.Fields.List {
				for _, name := range f.Names {
					comments[spec.Name.Name+"."+name.Name] = strings.Join(strings.Fields(f.Doc.Text()), " ")
				}
			}
		}
		return false
	})
	var b strings.Builder
	b.WriteString("| key | type | meaning |\n|---|---|---|\n")
	var walk func(prefix string, typ reflect.Type)
	walk = func(prefix string, typ reflect.Type) {
		for f := range typ.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			path, ft, kind := prefix+name, f.Type, ""
			if ft.Kind() == reflect.Pointer {
				ft = ft.Elem()
			}
			if ft.Kind() == reflect.Slice {
				ft, kind, path = ft.Elem(), "list of ", path+"[]"
			}
			comment := comments[typ.Name()+"."+f.Name]
			if ft.Kind() == reflect.Struct && ft != reflect.TypeFor[config.Duration]() {
				if comment != "" {
					fmt.Fprintf(&b, "| `%s` | section | %s |\n", path, comment)
				}
				walk(path+".", ft)
				continue
			}
			if comment == "" && prefix != "" {
				t.Errorf("%s.%s has no comment", typ.Name(), f.Name)
			}
			if comment != "" {
				fmt.Fprintf(&b, "| `%s` | %s%s | %s |\n", path, kind, words[ft.Name()], comment)
			}
		}
	}
	walk("", reflect.TypeFor[config.Config]())
	return b.String()
}

var configBlock = regexp.MustCompile("(?s)```yaml config\n(.*?)```")

// TestEveryConfigurationInTheDocsLoads: a block marked "yaml config" is one that people will copy.
func TestEveryConfigurationInTheDocsLoads(t *testing.T) {
	blocks := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".md" {
			return err
		}
		page, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range configBlock.FindAllStringSubmatch(string(page), -1) {
			blocks++
			if _, err := config.Parse([]byte(m[1])); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if blocks == 0 {
		t.Error("no configuration found in the docs")
	}
}
