package config

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
)

// Effects returns what is decided of keys.
func Effects() map[string]Effect { return maps.Clone(effects) }

// StructuralFaults returns what the strict loader says of a file in JSON before it looks at a rule: keys that it does not
// know, and values that it can't read.
func StructuralFaults(data []byte) ([]error, error) {
	var tree any
	j := json.NewDecoder(bytes.NewReader(data))
	j.UseNumber()
	if err := j.Decode(&tree); err != nil {
		return nil, err
	}
	var d decoder
	d.decode("", tree, reflect.ValueOf(new(Config)).Elem())
	return d.faults, nil
}
