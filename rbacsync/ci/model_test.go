package ci

import (
	"reflect"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// TestEveryFieldMakesAnotherNamespace: two descriptions that differ in any one field lead to other work, but for those that say so.
func TestEveryFieldMakesAnotherNamespace(t *testing.T) {
	t.Parallel()
	without := map[string]bool{"Read": true, "Lost": true} // of Namespace.same
	whole := func() Namespace {
		return Namespace{Readers: []int64{1}, Projects: []Project{{ID: 1, Variables: []authz.CIVariable{{Key: "A"}}}}}
	}
	check := func(name string, other Namespace) {
		if same := whole().same(other); same != without[name] {
			t.Errorf("with another %s, two descriptions are the same: %v", name, same)
		}
	}
	if !whole().same(whole()) {
		t.Fatal("a description is not the same as itself")
	}
	for i := range reflect.TypeFor[Namespace]().NumField() {
		n := whole()
		change(t, reflect.ValueOf(&n).Elem().Field(i))
		check(reflect.TypeFor[Namespace]().Field(i).Name, n)
	}
	for i := range reflect.TypeFor[Project]().NumField() {
		n := whole()
		change(t, reflect.ValueOf(&n.Projects[0]).Elem().Field(i))
		check("Project."+reflect.TypeFor[Project]().Field(i).Name, n)
	}
	for i := range reflect.TypeFor[authz.CIVariable]().NumField() {
		n := whole()
		change(t, reflect.ValueOf(&n.Projects[0].Variables[0]).Elem().Field(i))
		check("Variable."+reflect.TypeFor[authz.CIVariable]().Field(i).Name, n)
	}
}

// change gives a field another value.
func change(t *testing.T, v reflect.Value) {
	t.Helper()
	switch x := v.Addr().Interface().(type) {
	case *bool:
		*x = !*x
	case *time.Time:
		*x = x.Add(time.Hour)
	case *types.UID:
		*x += "x"
	case *authz.SourceID:
		*x = authz.GroupID(99)
	default:
		switch v.Kind() {
		case reflect.String:
			v.SetString(v.String() + "x")
		case reflect.Int64:
			v.SetInt(v.Int() + 1)
		case reflect.Slice:
			v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
		default:
			t.Fatalf("no other value for a %s: add one here", v.Type())
		}
	}
}
