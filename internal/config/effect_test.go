package config_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

// values returns the keys that hold a value.
func values(t *testing.T) []config.Key {
	t.Helper()
	keys, err := config.Keys()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(keys, func(k config.Key) bool { return k.Section })
}

// TestEveryKeyHasAnEffect: whoever adds a key decides whether a running process takes it over.
func TestEveryKeyHasAnEffect(t *testing.T) {
	decided := config.Effects()
	for _, k := range values(t) {
		if _, ok := decided[k.Path]; !ok {
			t.Errorf("%s: say in effect.go what a change of it does to a running process", k.Path)
		}
		delete(decided, k.Path)
	}
	for path := range decided {
		t.Errorf("effect.go names %s, which is no key", path)
	}
	if e := config.EffectOf("what.nobody.decided"); e != config.Restart {
		t.Errorf("a key that nobody has decided on: %s", e)
	}
}

// set gives the value at a path another content than the zero one, in the first element of lists.
func set(v reflect.Value, path string) {
	name, rest, deeper := strings.Cut(path, ".")
	list := strings.HasSuffix(name, "[]")
	for f := range v.Type().Fields() {
		if n, _, _ := strings.Cut(f.Tag.Get("json"), ","); n != strings.TrimSuffix(name, "[]") {
			continue
		}
		at := v.FieldByIndex(f.Index)
		if at.Kind() == reflect.Pointer {
			at.Set(reflect.New(at.Type().Elem()))
			at = at.Elem()
		}
		if list {
			at.Set(reflect.MakeSlice(at.Type(), 1, 1))
			at = at.Index(0)
		}
		if deeper {
			set(at, rest)
			return
		}
		switch {
		case at.Type() == reflect.TypeFor[config.Duration]():
			at.Field(0).SetInt(1)
		case at.Kind() == reflect.String:
			at.SetString("x")
		case at.Kind() == reflect.Bool:
			at.SetBool(true)
		case at.CanFloat():
			at.SetFloat(1)
		default:
			at.SetInt(1)
		}
	}
}

// TestCompareFindsEachKey: a change of any key is found, alone, in both directions and beside another one.
func TestCompareFindsEachKey(t *testing.T) {
	all := new(config.Config)
	var paths []string
	for _, k := range values(t) {
		one := new(config.Config)
		set(reflect.ValueOf(one).Elem(), k.Path)
		for _, pair := range [][2]*config.Config{{one, {}}, {{}, one}} {
			if got := config.Compare(pair[0], pair[1]); !slices.Equal(got, config.Changes{k.Path}) {
				t.Errorf("%s: found %v", k.Path, got)
			}
		}
		if got := config.Compare(one, one); len(got) != 0 {
			t.Errorf("%s: the same differs in %v", k.Path, got)
		}
		paths = append(paths, k.Path)
	}
	two := &config.Config{Authz: config.Authz{Roles: []config.Role{{ClusterRole: "a"}, {ClusterRole: "b"}}}, Cluster: config.Cluster{Replaces: []string{}}}
	if got := fmt.Sprint(config.Compare(all, two), config.Compare(two, &config.Config{Authz: config.Authz{Roles: []config.Role{{ClusterRole: "b"}, {ClusterRole: "a"}}}})); got != "[authz.roles[].clusterRole] [authz.roles[].clusterRole]" {
		t.Errorf("lists of sections: %s", got)
	}
	byEffect := 0
	for _, e := range []config.Effect{config.AtOnce, config.Reread, config.Restart} {
		byEffect += len(config.Changes(paths).With(e))
	}
	if byEffect != len(paths) {
		t.Errorf("%d of %d keys have one of the effects", byEffect, len(paths))
	}
}
