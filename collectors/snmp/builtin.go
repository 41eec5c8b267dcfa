package snmp

// The prefixes of the built-in profiles: SNMPv2-MIB, IF-MIB, HOST-RESOURCES-MIB, UCD-SNMP-MIB.
const (
	oidSystem  = "1.3.6.1.2.1.1."
	oidIf      = "1.3.6.1.2.1.2.2.1."
	oidIfX     = "1.3.6.1.2.1.31.1.1.1."
	oidStorage = "1.3.6.1.2.1.25.2.3.1."
	oidHost    = "1.3.6.1.2.1.25."
	oidUCD     = "1.3.6.1.4.1.2021."

	oidUptime   = oidSystem + "3.0"
	oidDescr    = oidSystem + "1.0"
	oidObjectID = oidSystem + "2.0"
	oidName     = oidSystem + "5.0"
)

// interfaceCounter is a counter of 64 bits, or where there is none the one of 32 bits.
func interfaceCounter(name, high, low, help string) Metric {
	m := Metric{Name: "snmp_interface_" + name, OID: oidIf + low, Type: typeCounter, Help: help}
	if high != "" {
		m.OID, m.Else = oidIfX+high, ""
		if low != "" {
			m.Else = oidIf + low
		}
	}
	return m
}

// builtin are the profiles that every host may be asked for by name.
var builtin = map[string]*Profile{
	"system": {Metrics: []Metric{
		{Name: "snmp_uptime_seconds", OID: oidUptime, Scale: 0.01, Help: "Time since the SNMP agent started."},
		{Name: "snmp_system_info", OID: oidDescr, Type: typeText, Label: "description", Help: "What the host says that it is (sysDescr)."},
		{Name: "snmp_system_object", OID: oidObjectID, Type: typeText, Label: "object_id", Help: "The vendor's identification of the host (sysObjectID)."},
		{Name: "snmp_system_name", OID: oidName, Type: typeText, Label: "name", Help: "The name that the host gives itself (sysName)."},
		{Name: "snmp_system_location", OID: oidSystem + "6.0", Type: typeText, Label: "location", Help: "Where the host says that it is (sysLocation)."},
	}},
	"interfaces": {Tables: []Table{{
		Index: "index",
		Labels: []LabelColumn{
			{Label: "interface", OID: oidIfX + "1", Else: oidIf + "2"}, {Label: "description", OID: oidIf + "2"}, {Label: "alias", OID: oidIfX + "18"},
		},
		Metrics: []Metric{
			interfaceCounter("received_bytes_total", "6", "10", "Bytes received (ifHCInOctets, or ifInOctets)."),
			interfaceCounter("received_packets_total", "7", "11", "Unicast packets received."),
			interfaceCounter("received_multicast_packets_total", "8", "", "Multicast packets received."),
			interfaceCounter("received_broadcast_packets_total", "9", "", "Broadcast packets received."),
			interfaceCounter("receive_drops_total", "", "13", "Received packets that were dropped without an error."),
			interfaceCounter("receive_errors_total", "", "14", "Received packets with an error."),
			interfaceCounter("sent_bytes_total", "10", "16", "Bytes sent (ifHCOutOctets, or ifOutOctets)."),
			interfaceCounter("sent_packets_total", "11", "17", "Unicast packets sent."),
			interfaceCounter("sent_multicast_packets_total", "12", "", "Multicast packets sent."),
			interfaceCounter("sent_broadcast_packets_total", "13", "", "Broadcast packets sent."),
			interfaceCounter("send_drops_total", "", "19", "Packets to be sent that were dropped without an error."),
			interfaceCounter("send_errors_total", "", "20", "Packets that could not be sent for an error."),
			{Name: "snmp_interface_speed_bits", OID: oidIfX + "15", Scale: 1e6, Else: oidIf + "5", ElseScale: 1, Help: "Bandwidth in bits a second (ifHighSpeed, or ifSpeed)."},
			{Name: "snmp_interface_admin_status", OID: oidIf + "7", Help: "Wanted state: 1 up, 2 down, 3 testing."},
			{Name: "snmp_interface_oper_status", OID: oidIf + "8", Help: "State: 1 up, 2 down, 3 testing, 4 unknown, 5 dormant, 6 not present, 7 lower layer down."},
			{Name: "snmp_interface_type", OID: oidIf + "3", Help: "Type as IANA numbers them (ifType)."},
			{Name: "snmp_interface_mtu_bytes", OID: oidIf + "4", Help: "Largest packet (ifMtu)."},
		},
	}}},
	"host-resources": {
		Metrics: []Metric{
			{Name: "snmp_host_uptime_seconds", OID: oidHost + "1.1.0", Scale: 0.01, Help: "Time since the host started."},
			{Name: "snmp_host_users", OID: oidHost + "1.5.0", Help: "Users that are logged in."},
			{Name: "snmp_host_processes", OID: oidHost + "1.6.0", Help: "Processes."},
			{Name: "snmp_host_memory_bytes", OID: oidHost + "2.2.0", Scale: 1024, Help: "Main memory."},
		},
		Tables: []Table{
			{Index: "index", Labels: []LabelColumn{{Label: "storage", OID: oidStorage + "3"}}, Metrics: []Metric{
				{Name: "snmp_storage_unit_bytes", OID: oidStorage + "4", Help: "Size of one unit of the storage."},
				{Name: "snmp_storage_size_units", OID: oidStorage + "5", Help: "Size in units."},
				{Name: "snmp_storage_used_units", OID: oidStorage + "6", Help: "What of it is used, in units."},
				{Name: "snmp_storage_failures_total", OID: oidStorage + "7", Type: typeCounter, Help: "Requests that failed for lack of room."},
			}},
			{Index: "processor", Metrics: []Metric{
				{Name: "snmp_processor_load", OID: oidHost + "3.3.1.2", Scale: 0.01, Help: "Share of the last minute that the processor was not idle."},
			}},
		},
	},
	"ucd": {
		Metrics: []Metric{
			{Name: "snmp_ucd_memory_total_bytes", OID: oidUCD + "4.5.0", Scale: 1024, Help: "Main memory."},
			{Name: "snmp_ucd_memory_available_bytes", OID: oidUCD + "4.6.0", Scale: 1024, Help: "Main memory that is free."},
			{Name: "snmp_ucd_memory_buffers_bytes", OID: oidUCD + "4.14.0", Scale: 1024, Help: "Main memory for buffers."},
			{Name: "snmp_ucd_memory_cached_bytes", OID: oidUCD + "4.15.0", Scale: 1024, Help: "Main memory for cached files."},
			{Name: "snmp_ucd_swap_total_bytes", OID: oidUCD + "4.3.0", Scale: 1024, Help: "Swap."},
			{Name: "snmp_ucd_swap_available_bytes", OID: oidUCD + "4.4.0", Scale: 1024, Help: "Swap that is free."},
			{Name: "snmp_ucd_cpu_user_ticks_total", OID: oidUCD + "11.50.0", Type: typeCounter, Help: "Processor time of users' programs, in ticks."},
			{Name: "snmp_ucd_cpu_nice_ticks_total", OID: oidUCD + "11.51.0", Type: typeCounter, Help: "Processor time of programs of low priority, in ticks."},
			{Name: "snmp_ucd_cpu_system_ticks_total", OID: oidUCD + "11.52.0", Type: typeCounter, Help: "Processor time of the kernel, in ticks."},
			{Name: "snmp_ucd_cpu_idle_ticks_total", OID: oidUCD + "11.53.0", Type: typeCounter, Help: "Processor time without work, in ticks."},
			{Name: "snmp_ucd_cpu_wait_ticks_total", OID: oidUCD + "11.54.0", Type: typeCounter, Help: "Processor time that waited for disks, in ticks."},
		},
		Tables: []Table{{Labels: []LabelColumn{{Label: "over", OID: oidUCD + "10.1.2"}}, Metrics: []Metric{
			{Name: "snmp_ucd_load", OID: oidUCD + "10.1.5", Scale: 0.01, Help: "Load average."},
		}}},
	},
}
