package preview_test

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/preview"
)

// TestThePageOfPlans: docs/plan.md shows a plan as it is, and has each field and each reason.
func TestThePageOfPlans(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../docs/plan.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	if text := document(t, scenes["members"]).Text(false); !strings.Contains(page, "```text\n"+text+"```\n") {
		t.Errorf("docs/plan.md should show:\n%s", text)
	}
	if text, _, _ := strings.Cut(document(t, scenes["token"]).Text(false), "\n\n"); !strings.Contains(page, "```text\n"+text+"\n```\n") {
		t.Errorf("docs/plan.md should show:\n%s", text)
	}
	seen := map[reflect.Type]bool{}
	var look func(reflect.Type)
	look = func(x reflect.Type) {
		for x.Kind() == reflect.Slice || x.Kind() == reflect.Pointer {
			x = x.Elem()
		}
		if x.Kind() != reflect.Struct || x.Name() == "Time" || seen[x] {
			return
		}
		seen[x] = true
		for f := range x.Fields() {
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && !regexp.MustCompile("`(?:[a-zA-Z]+(?:\\[\\])?\\.)*"+name+"(?:\\[\\])?[`:]").MatchString(page) {
				t.Errorf("docs/plan.md does not name the field %s of %s", name, x.Name())
			}
			look(f.Type)
		}
	}
	look(reflect.TypeFor[preview.Document]())
	source, err := os.ReadFile("reason.go")
	if err != nil {
		t.Fatal(err)
	}
	codes := regexp.MustCompile(`Code = "(\w+)"`).FindAllStringSubmatch(string(source), -1)
	for _, c := range codes {
		if !strings.Contains(page, "\n| `"+c[1]+"` |") {
			t.Errorf("docs/plan.md has no row for the reason %s", c[1])
		}
	}
	if len(codes) < 20 || len(seen) < 10 {
		t.Errorf("only %d reasons and %d structs were found", len(codes), len(seen))
	}
}
