#ifndef AEROSTAT_DEV_PLATFORM_H
#define AEROSTAT_DEV_PLATFORM_H

/* Where things are in the machine: one list for devices, ACPI tables and wiring. */

#define PLATFORM_LAPIC_BASE  0xfee00000u
#define PLATFORM_LAPIC_SIZE  0x1000u
#define PLATFORM_IOAPIC_BASE 0xfec00000u
#define PLATFORM_IOAPIC_PINS 24u

/* RAM below this, then from 4 GiB on; the hole between holds devices. */
#define PLATFORM_LOW_RAM_END 0xc0000000u

/* virtio-mmio transports: one 4 KiB window each, GSI 9 and up, level, active high:
 * behind those of the ISA devices, whose interrupts are edges. */
#define PLATFORM_VIRTIO_BASE 0xd0000000u
#define PLATFORM_VIRTIO_SIZE 0x1000u
#define PLATFORM_VIRTIO_GSI  9u
#define PLATFORM_VIRTIO_MAX  15u

#define PLATFORM_PORT_PIC1       0x20u
#define PLATFORM_PORT_PIC2       0xa0u
#define PLATFORM_PORT_PIT        0x40u
#define PLATFORM_PORT_SYSTEM     0x61u /* speaker, PIT channel 2 gate */
#define PLATFORM_PORT_RTC        0x70u
#define PLATFORM_PORT_SERIAL     0x3f8u
#define PLATFORM_PORT_DEBUG_EXIT 0xf4u
#define PLATFORM_PORT_SLEEP      0x600u /* ACPI sleep control, status at + 1 */
#define PLATFORM_PORT_RESET      0xcf9u
#define PLATFORM_PORT_KEYBOARD   0x64u /* only its reset command */
#define PLATFORM_GSI_SERIAL      4u
#define PLATFORM_GSI_PIT         2u
#define PLATFORM_GSI_RTC         8u
#define PLATFORM_GSI_POWER       5u /* edge */

_Static_assert(PLATFORM_VIRTIO_GSI + PLATFORM_VIRTIO_MAX <= PLATFORM_IOAPIC_PINS,
               "a pin for each window");
_Static_assert(PLATFORM_VIRTIO_GSI > PLATFORM_GSI_RTC, "level and edge on different pins");

#endif
