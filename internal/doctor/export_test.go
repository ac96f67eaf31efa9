package doctor

// Row is what docs/doctor.md says of a rule.
type Row struct{ Code, Name, Why, Fix string }

// Rows returns one for each rule.
func Rows() []Row {
	var out []Row
	for _, r := range rules() {
		out = append(out, Row{r.code, r.name, r.why, r.fix})
	}
	return out
}

// After returns the codes that each rule's problem can be a consequence of.
func After() map[string][]string {
	out := map[string][]string{}
	for _, r := range rules() {
		out[r.code] = r.after
	}
	return out
}
